"""A plugin with a method, an objective, a measure and three kinds of job that exist nowhere else.

They are nothing that anybody would want, and take no short cut: `tests/integration/test_plugins.py` brings each of them
from form to result through the real processes.
"""
