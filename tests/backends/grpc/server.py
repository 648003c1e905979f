"""A shop that is called by gRPC, without generated code: messages are plain bytes.

The session is a cookie `sid`, set in the initial metadata of the answer that starts it, as an HTTP shop would. Prints
the port it listens on.
"""

import sys
import time
import uuid
from concurrent import futures
from http.cookies import SimpleCookie

import grpc

BASKETS = {}


def cookies(context):
    found = SimpleCookie()
    for name, value in context.invocation_metadata():
        if name == "cookie":
            found.load(value)
    return found


def basket(context):
    """The session of the call; a fresh one where there is none alive."""
    sent = cookies(context).get("sid")
    if sent is not None and sent.value in BASKETS:
        return sent.value
    sid = uuid.uuid4().hex
    BASKETS[sid] = 0
    context.send_initial_metadata((("set-cookie", f"sid={sid}; Path=/; HttpOnly"), ("x-started", "1")))
    return sid


def metadata(context):
    return dict(context.invocation_metadata())


def add(request, context):
    sid = basket(context)
    BASKETS[sid] += 1
    sent = metadata(context)
    context.set_trailing_metadata((("x-sum", str(BASKETS[sid])), ("set-cookie", "stolen=1")))
    return f"{BASKETS[sid]} {request.decode()} {sent.get('x-word', '')} {sent.get('x-forwarded-proto', '')}".encode()


def count(request, context):
    basket(context)
    for number in range(int(request)):
        yield str(number).encode()


def echo(requests, context):
    basket(context)
    for request in requests:
        yield request[::-1]


def total(requests, context):
    basket(context)
    return str(sum(len(request) for request in requests)).encode()


def refuse(request, context):
    context.set_trailing_metadata((("x-why", "sold-out"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nothing left: 0 %")


def given_up(context, kind):
    """Notes the end of a call that the client did not wait for."""

    def note():
        BASKETS[kind] = BASKETS.get(kind, 0) + 1

    context.add_callback(note)


def wait(request, context):
    """Never answers."""
    given_up(context, "wait")
    while context.is_active():
        time.sleep(0.01)
    return b""


def endless(request, context):
    basket(context)
    given_up(context, "endless")
    while context.is_active():
        yield b"tick"
        time.sleep(0.01)


def ended(request, context):
    return str(BASKETS.get(request.decode(), 0)).encode()


def main():
    handlers = {
        "Add": grpc.unary_unary_rpc_method_handler(add),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Ended": grpc.unary_unary_rpc_method_handler(ended),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
