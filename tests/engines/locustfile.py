"""Locust, unchanged, as a client: unary and streamed chats and completions, every answer checked.

`make clients` runs it; by hand: `pip install locust`, a proxy on 8080 before a real engine, then
`locust -f tests/engines/locustfile.py --headless -u 8 -r 8 -t 30s --host http://127.0.0.1:8080`.
"""

import json
import random
from typing import Any

from locust import HttpUser, constant, task

_TOPICS = ("rivers", "bread", "the moon", "chess", "bees", "rust", "winter", "maps")


class Client(HttpUser):
    """One client that waits for its answer and asks again."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Ask which model there is."""
        self.model = self.client.get("/v1/models").json()["data"][0]["id"]

    @task(2)
    def chat(self) -> None:
        """A whole answer."""
        self._ask("/v1/chat/completions", "chat", {"messages": self._messages()})

    @task(2)
    def streamed_chat(self) -> None:
        """A stream, read to its end."""
        self._ask("/v1/chat/completions", "chat, streamed", {"messages": self._messages(), "stream": True})

    @task(1)
    def completion(self) -> None:
        """The older API."""
        self._ask("/v1/completions", "completion", {"prompt": f"About {random.choice(_TOPICS)}:"})

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Tell me about {random.choice(_TOPICS)}."}]

    def _ask(self, path: str, name: str, body: dict[str, Any]) -> None:
        body |= {"model": self.model, "max_tokens": random.choice((4, 8, 16, 32))}
        with self.client.post(path, json=body, name=name, catch_response=True) as response:
            text = response.text
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {text[:200]}")
            elif body.get("stream"):
                if not text.endswith("data: [DONE]\n\n"):
                    response.failure("the stream has no end")
            elif not json.loads(text)["usage"]["completion_tokens"]:
                response.failure("no tokens")
