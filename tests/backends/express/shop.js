// A stateful shop on express-session with its memory store.
// `rolling` sends the same value with a new Expires each time; the head, Set-Cookie in it, leaves before the session
// is saved, and the last byte of the body is held back until it is.
'use strict';

const crypto = require('node:crypto');
const express = require('express');
const session = require('express-session');

const shop = express();
const store = new session.MemoryStore();
shop.all('/forget', (req, res, next) => store.clear((error) => (error ? next(error) : res.end())));
shop.use(
  session({
    store,
    secret: crypto.randomBytes(16).toString('hex'),
    resave: false,
    saveUninitialized: true,
    rolling: true,
    cookie: { maxAge: 3600 * 1000 },
  }),
);

function answer(req, res) {
  const names = (req.headers.cookie || '').split(';').map((pair) => pair.split('=')[0].trim());
  res.json({
    basket: (req.session && req.session.basket) || 0,
    user: (req.session && req.session.user) || null,
    session: req.session ? crypto.createHash('sha256').update(req.session.id).digest('hex').slice(0, 16) : null,
    cookies: names.filter((name) => name !== ''),
  });
}

shop.all('/basket/add', (req, res) => {
  req.session.basket = (req.session.basket || 0) + 1;
  answer(req, res);
});
shop.all('/basket', answer);
shop.all('/member', (req, res) => (req.session.user ? answer(req, res) : res.status(401).end()));
shop.post('/login', (req, res, next) => {
  const { basket } = req.session;
  req.session.regenerate((error) => {
    if (error) return next(error);
    req.session.basket = basket;
    req.session.user = String(req.query.user || 'anna');
    return answer(req, res);
  });
});
shop.post('/logout', (req, res, next) => {
  req.session.destroy((error) => {
    if (error) return next(error);
    res.clearCookie('connect.sid');
    return answer(req, res);
  });
});

shop.listen(Number(process.env.PORT), '127.0.0.1');
