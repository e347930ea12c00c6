# One real completion through the Service: an engine must have answered, and the proxy must have been on the way.
import http.client
import json
import os
import sys
import time
from typing import Any

address, policy, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
headers = {"Content-Type": "application/json"}
if os.environ.get("API_KEY"):
    headers["Authorization"] = "Bearer " + os.environ["API_KEY"]


def call(method: str, path: str, body: Any = None) -> tuple[dict[str, str], Any]:
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise OSError(f"{path} answered {answer.status}: {text}")
    return {name.lower(): value for name, value in answer.getheaders()}, json.loads(text)


def complete() -> tuple[dict[str, str], Any]:
    _, models = call("GET", "/v1/models")
    words = [{"role": "user", "content": "Say one word."}]
    question = {"model": models["data"][0]["id"], "messages": words, "max_tokens": 16}
    return call("POST", "/v1/chat/completions", question)


def judge(received: dict[str, str], answer: Any) -> str | None:
    for name in ("request-id", "predicted-tokens", "queue-ms", "policy", "artifact"):
        if not received.get("x-headway-" + name):
            return f"the answer has no header x-headway-{name}: does the Service lead to the proxy?"
    if received["x-headway-policy"] != policy:
        return f"the proxy's policy is {received['x-headway-policy']}, but {policy} is configured"
    if not answer["usage"]["completion_tokens"]:
        return "the engine answered without a token"
    sys.stdout.write(f"answered with {answer['usage']['completion_tokens']} tokens\n")
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in received.items())
    return None


deadline = time.monotonic() + timeout_s
while True:
    try:
        sys.exit(judge(*complete()))
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        if time.monotonic() > deadline:
            sys.exit(f"no answer through {address}: {error!r}")
        time.sleep(0.5)
