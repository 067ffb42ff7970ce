"""A server of Weights & Biases that opens a run on loopback, and can go away."""

import contextlib
import http.server
import json
import threading

_RUN = {
    "id": "a", "name": "a", "displayName": "a", "description": "", "config": "{}",
    "sweepName": None, "historyLineCount": 0,
    "project": {"id": "a", "name": "codes", "entity": {"id": "a", "name": "me"}},
}  # fmt: skip
_ANSWERS = {
    "query Viewer": {"viewer": {"id": "a", "entity": "me", "flags": "{}", "teams": {"edges": []}}},
    "query RunResumeStatus": {"model": None},
    "mutation UpsertBucket": {"upsertBucket": {"bucket": _RUN, "inserted": True}},
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
        self.server.asked.append(self.path)
        data = next((data for query, data in _ANSWERS.items() if query in text), None)
        answer = {"data": data} if data else {"errors": [{"message": "no"}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving():
    """Yields a server, whose `server_port` and `asked` tell where it is and what was asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
