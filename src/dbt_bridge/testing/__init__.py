"""What an implementation of a contract must pass: classes of tests, to be subclassed with what opens its subject."""
