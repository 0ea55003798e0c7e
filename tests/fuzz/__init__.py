"""Coverage-guided fuzzing of every parser of user input: `make verify-fuzz`, with a report in docs/fuzz.md.

targets.py    the parsers, each with the exceptions that it may raise and a few valid inputs to start from
program.py    runs one target under atheris (libFuzzer)
__main__.py   runs all of them and writes the report
"""
