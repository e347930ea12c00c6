# Keep serving until no Service sends here any more; then have the proxy beside us finish every answer.
import http.client
import sys
import time

delay_s, limit_s, admin_port = (float(argument) for argument in sys.argv[1:])
time.sleep(delay_s)
proxy = http.client.HTTPConnection("127.0.0.1", int(admin_port), timeout=limit_s)
proxy.request("POST", "/headway/drain")
status = proxy.getresponse().status
sys.exit(0 if status == 200 else f"the proxy had not finished: HTTP {status}")
