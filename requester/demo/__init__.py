"""The demonstration: the product doing its main job on two real volumes, with a running application.

It uses nothing but the commands that a user has; each of its checks must hold for it to end with exit status 0.
"""
