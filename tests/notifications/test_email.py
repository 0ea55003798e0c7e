"""E-mail leaves by the server that the environment names, under every Django that pyproject.toml allows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

SEND = """
import django
django.setup()
from django.core.mail import EmailMessage
EmailMessage(subject="Done", body="The job has ended.", to=["alice@example.org"]).send()
"""
ANSWERS = {"DATA": "354 Go on", "AUTH": "235 Welcome", "QUIT": "221 Bye"}


def serve_one(listener: socket.socket, heard: list[str]) -> None:
    """An SMTP server for one client."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rw", newline="\r\n") as stream:

        def say(line: str) -> None:
            stream.write(f"{line}\r\n")
            stream.flush()

        say("220 Hello")
        is_data = False
        for line in stream:
            heard.append(line.rstrip())
            word = line[:4].upper()
            is_data = (is_data or word == "DATA") and line.rstrip() != "."
            if word == "EHLO":
                say("250-mail\r\n250 AUTH PLAIN")
            elif word == "DATA" or not is_data:
                say(ANSWERS.get(word, "250 Fine"))
            if word == "QUIT":
                return


def test_the_servers_address_and_login_are_the_environments() -> None:
    """In a process of its own: Django's test runner keeps mail in memory. A deprecation ends it."""
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one, args=(listener, heard), daemon=True)
        thread.start()
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "finetune_hub.settings",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(listener.getsockname()[1]),
            "EMAIL_HOST_USER": "hub",
            "EMAIL_HOST_PASSWORD": "secret",
            "EMAIL_USE_TLS": "0",
            "EMAIL_FROM": "hub@example.org",
        }
        command = [sys.executable, "-W", "error", "-c", SEND]
        sent = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        thread.join(timeout=10)
    assert sent.returncode == 0, sent.stderr
    assert "AUTH PLAIN AGh1YgBzZWNyZXQ=" in heard  # "\0hub\0secret" in base64.
    assert "mail from:<hub@example.org>" in map(str.lower, heard)
    assert {"Subject: Done", "To: alice@example.org", "The job has ended."} <= set(heard)
