"""Calls the shop at the address given, with the Install ID given, and prints what came as JSON."""

import json
import queue
import sys
import time

import grpc


def pairs(metadata):
    return sorted([key, value] for key, value in metadata or ())


def call_add(channel, metadata, word):
    add = channel.unary_unary("/shop.Shop/Add")
    answer, call = add.with_call(word.encode(), metadata=metadata + (("x-word", word),), timeout=20)
    return {"answer": answer.decode(), "initial": pairs(call.initial_metadata()), "trailing": pairs(call.trailing_metadata())}


def refusal(channel, metadata):
    try:
        channel.unary_unary("/shop.Shop/Refuse")(b"", metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details(), "trailing": pairs(error.trailing_metadata())}


def bridge_refusal(channel):
    try:
        channel.unary_unary("/shop.Shop/Add")(b"", timeout=20)
    except grpc.RpcError as error:
        return error.code().name


def conversation(channel, metadata):
    """Each word is sent only once the answer to the one before has come."""
    words = queue.Queue()
    answers = channel.stream_stream("/shop.Shop/Echo")(iter(words.get, None), metadata=metadata, timeout=20)
    heard = []
    for word in ("one", "two", "three"):
        words.put(word.encode())
        heard.append(next(answers).decode())
    words.put(None)
    rest = list(answers)
    return {"heard": heard, "rest": len(rest), "code": answers.code().name}


def ended(channel, metadata, kind):
    """How many calls of this kind have ended at the server."""
    return int(channel.unary_unary("/shop.Shop/Ended")(kind, metadata=metadata, timeout=20))


def learns(channel, metadata, kind, before):
    """Whether the server learns that one of its calls was given up."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        if ended(channel, metadata, kind) == before + 1:
            return True
        time.sleep(0.02)
    return False


def deadline(channel, metadata):
    """A call whose deadline passes before there is any answer."""
    before = ended(channel, metadata, b"wait")
    try:
        channel.unary_unary("/shop.Shop/Wait")(b"", metadata=metadata, timeout=0.5)
    except grpc.RpcError as error:
        return {"code": error.code().name, "learns": learns(channel, metadata, b"wait", before)}


def cancelled(channel, metadata):
    """A stream that the client leaves in the middle."""
    before = ended(channel, metadata, b"endless")
    ticks = channel.unary_stream("/shop.Shop/Endless")(b"", metadata=metadata)
    heard = [next(ticks).decode() for _ in range(3)]
    ticks.cancel()
    return {"heard": len(heard), "learns": learns(channel, metadata, b"endless", before)}


def main(address, install_id):
    metadata = (("x-install-id", install_id),)
    with grpc.insecure_channel(address) as channel:
        count = channel.unary_stream("/shop.Shop/Count")
        total = channel.stream_unary("/shop.Shop/Total")
        said = {
            "first": call_add(channel, metadata, "apple"),
            "second": call_add(channel, metadata, "pear"),
            "counted": sum(int(number) for number in count(b"1000", metadata=metadata, timeout=20)),
            "total": total((b"x" * 50_000 for _ in range(40)), metadata=metadata, timeout=20).decode(),
            "conversation": conversation(channel, metadata),
            "refusal": refusal(channel, metadata),
            "bridge_refusal": bridge_refusal(channel),
            "deadline": deadline(channel, metadata),
            "cancelled": cancelled(channel, metadata),
            "third": call_add(channel, metadata, "plum"),
        }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
