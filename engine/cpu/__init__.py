"""The device called "cpu": native code for this machine's processor.

The only part that may use llvmlite.
"""
