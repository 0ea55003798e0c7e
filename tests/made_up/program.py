"""`python -m tests.made_up.program tally FILE`: what the made-up kinds run, in a process of their own."""

from __future__ import annotations

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import FrameType

from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import EXIT_STOPPED, EXIT_SUCCEEDED, Listening, Stopped
from tests.made_up.documents import HeraldRun, TallyRun


def tally(run: TallyRun) -> int:
    count = run.file.read_text(encoding="utf-8").count(run.letter)
    (run.output_dir / "result.json").write_text(json.dumps({"count": count}))
    return EXIT_SUCCEEDED


def herald(run: HeraldRun) -> int:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(run.word.encode())

    server = HTTPServer(("127.0.0.1", 0), Answer)

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with EventLog(run.output_dir) as log:
        log.emit(Listening(address=f"http://127.0.0.1:{server.server_port}"))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.emit(Stopped(step=0))
    return EXIT_STOPPED


if __name__ == "__main__":
    command, file = sys.argv[1], Path(sys.argv[-1])
    if command == "tally":
        sys.exit(tally(TallyRun.model_validate_json(file.read_bytes())))
    sys.exit(herald(HeraldRun.model_validate_json(file.read_bytes())))
