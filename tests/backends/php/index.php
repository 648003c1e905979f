<?php
// A stateful shop on PHP's own sessions, as `php -S` runs it (see tests/it/support/real.rs for the settings).
// PHP sends Set-Cookie only when the session ID changes, and locks a session while a request uses it.

declare(strict_types=1);

function answer(): void
{
    header('Content-Type: application/json');
    echo json_encode([
        'basket' => $_SESSION['basket'] ?? 0,
        'user' => $_SESSION['user'] ?? null,
        'session' => session_id() === '' ? null : substr(hash('sha256', session_id()), 0, 16),
        'cookies' => array_map('strval', array_keys($_COOKIE)),
    ]);
}

if (getenv('SHOP_TAKES_ANY_ID') !== false) {
    // As PHP is unless it is told otherwise: a session ID that the client made up is as good as any.
    ini_set('session.use_strict_mode', '0');
}
if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) === '/forget') {
    array_map('unlink', glob(session_save_path() . '/sess_*'));
    exit;
}
session_start();
switch (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    case '/basket/add':
        $_SESSION['basket'] = ($_SESSION['basket'] ?? 0) + 1;
        break;
    case '/basket':
        break;
    case '/member':
        if (!isset($_SESSION['user'])) {
            header('Location: /login?next=/member', true, 302);
            exit;
        }
        break;
    case '/login':
        session_regenerate_id(true);
        $_SESSION['user'] = (string) ($_GET['user'] ?? 'anna');
        break;
    case '/logout':
        $_SESSION = [];
        setcookie(session_name(), '', ['expires' => time() - 3600, 'path' => '/']);
        session_destroy();
        break;
    default:
        http_response_code(404);
}
answer();
