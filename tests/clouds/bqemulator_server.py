"""bqemulator 1.4: run by the Python of the emulator's own venv.

It asks DuckDB for the extension `spatial` from the network; here it comes from PyPI. Where BigQuery refuses a query
with an HTTP error, it answers without rows, which Google's client takes for an empty result; here it refuses. It knows
no BQ.ABORT_SESSION. And Google's client wants a token before it asks anything: any will do.

    python bqemulator_server.py PORT TOKEN_PORT
"""

import contextlib
import http.server
import sys
import threading

import duckdb_extensions
from bqemulator.api.routes import jobs
from bqemulator.cli import main
from bqemulator.domain.errors import DomainError


class Tokens(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = b'{"access_token": "any", "expires_in": 3600, "token_type": "Bearer"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


_asked = jobs.execute_query_job


async def asked(project, job, sql, *args, **kwargs):
    try:
        return await _asked(project, job, sql.replace(";CALL BQ.ABORT_SESSION()", ""), *args, **kwargs)
    except jobs._SQL_EXECUTION_DOMAIN_ERRORS as error:
        if job.startswith("bqemu_"):  # asked by jobs.query, and not by jobs.insert
            refused = DomainError(str(error))
            refused.http_status, refused.bq_reason = error.http_status, error.bq_reason
            raise refused from error
        raise


jobs.execute_query_job = asked
with contextlib.suppress(ModuleNotFoundError):
    duckdb_extensions.import_extension("spatial")
tokens = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Tokens)
threading.Thread(target=tokens.serve_forever, daemon=True).start()
main(["start", "--rest-port", sys.argv[1], "--grpc-port", "0"])
