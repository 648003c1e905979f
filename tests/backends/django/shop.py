"""A stateful shop on Django's database sessions and its own log-in, in one file.

`csrftoken` comes along with `sessionid` and rotates at log-in; every answer says `Vary: Cookie`. What is under
`guarded/` is protected against CSRF, as Django does it unless it is told otherwise.
Run `python shop.py` once to make the database, then serve `shop:application`.
"""

import hashlib
import os

import django
from django.conf import settings
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SHOP_DATABASE"],
            "OPTIONS": {"timeout": 20},
        }
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    # With it Django knows of HTTPS, and then asks unsafe requests for an Origin or a Referer.
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SECRET_KEY=os.environ["SHOP_SECRET"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from django.contrib.auth import login, logout  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.middleware.csrf import get_token  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


def answer(request):
    key = request.session.session_key
    return JsonResponse(
        {
            "basket": request.session.get("basket", 0),
            "user": request.user.username or None,
            "session": hashlib.sha256(key.encode()).hexdigest()[:16] if key else None,
            "cookies": list(request.COOKIES),
        }
    )


@csrf_exempt
def add(request):
    request.session["basket"] = request.session.get("basket", 0) + 1
    get_token(request)
    return answer(request)


@csrf_exempt
def basket(request):
    return answer(request)


@csrf_exempt
@login_required
def member(request):
    return answer(request)


@csrf_exempt
def forget(request):
    Session.objects.all().delete()
    return HttpResponse()


@csrf_exempt
def log_in(request):
    user, _ = User.objects.get_or_create(username=request.GET.get("user", "anna"))
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return answer(request)


@csrf_exempt
def log_out(request):
    logout(request)
    return answer(request)


def guarded(view):
    """The same without the exemption."""

    def protected(request):
        return view(request)

    return protected


urlpatterns = [
    path("guarded/basket/add", guarded(add)),
    path("guarded/login", guarded(log_in)),
    path("guarded/logout", guarded(log_out)),
    path("basket/add", add),
    path("basket", basket),
    path("login", log_in),
    path("member", member),
    path("forget", forget),
    path("logout", log_out),
]

application = get_wsgi_application()

if __name__ == "__main__":
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
