"""The commands that Windows administrators know (vssadmin, diskshadow, vshadow) over the requester library.

Verbs, switches, field labels and order of the output are those of the published tools, so that scripts and parsers
find what they look for. Volumes are named as everywhere in Shadowset: by name, device or a path on them.
"""
