"""A stateful shop on Flask's default session: all of it is in a signed cookie, nothing on the server.

The signature holds the time, so the cookie's value changes with each second in which the session is written.
"""

import hashlib
import os

from flask import Flask, jsonify, request, session

app = Flask(__name__)
app.secret_key = os.environ["SHOP_SECRET"]


def answer():
    value = request.cookies.get("session", "")
    return jsonify(
        basket=session.get("basket", 0),
        user=session.get("user"),
        session=hashlib.sha256(value.encode()).hexdigest()[:16] if value else None,
        cookies=list(request.cookies),
    )


@app.route("/basket/add", methods=["GET", "POST"])
def add():
    session["basket"] = session.get("basket", 0) + 1
    return answer()


@app.route("/basket", methods=["GET", "POST"])
def basket():
    return answer()


@app.route("/login", methods=["POST"])
def login():
    session["user"] = request.args.get("user", "anna")
    return answer()


@app.route("/logout", methods=["POST"])
def logout():
    session.clear()
    return answer()
