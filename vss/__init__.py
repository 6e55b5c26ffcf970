"""The vocabulary of the Volume Shadow Copy Service: codes, states, documents, selection rules and wire messages.

Pure: nothing in this room does input or output or knows of an event loop.
"""
