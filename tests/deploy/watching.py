"""Receives what Alertmanager sends, as a webhook and as a mail server: an object per line in a file.

  watching.py FILE    prints the ports of webhook and mail, and serves until it is ended

A line is {"by": "webhook", "status": …, "alerts": [[name, instance, status], …]} or {"by": "mail", "subject": …}.
"""

import http.server
import json
import socketserver
import sys
import threading

write_lock = threading.Lock()


def note(line):
    with write_lock, open(sys.argv[1], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        alerts = [[one["labels"]["alertname"], one["labels"].get("instance", ""), one["status"]] for one in sent["alerts"]]
        note({"by": "webhook", "status": sent["status"], "alerts": alerts})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs that neither logs in nor encrypts."""

    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mail")
        for line in self.rfile:
            match line.split(None, 1)[0].upper() if line.split() else b"":
                case b"DATA":
                    self.say("354 go on")
                    self.letter()
                    self.say("250 received")
                case b"QUIT":
                    self.say("221 end")
                    return
                case _:
                    self.say("250 mail")

    def letter(self):
        for line in self.rfile:
            if line.rstrip(b"\r\n") == b".":
                return
            if line.lower().startswith(b"subject:"):
                note({"by": "mail", "subject": line.decode().split(":", 1)[1].strip()})


def main():
    webhook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    print(webhook.server_port, mail.server_address[1], flush=True)
    threading.Thread(target=mail.serve_forever, daemon=True).start()
    webhook.serve_forever()


if __name__ == "__main__":
    main()
