"""API keys: who is let in to what, on every method that there is; and the commands that make and revoke keys."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from liveloop import admission
from liveloop.access import LOCAL, Scope, caller
from liveloop.admission import OPEN, SCOPES, Access, open_access
from liveloop.api_keys import KEYS_PER_CLIENT, Client, Key, clients_as_json, key_in, keys_by_id, new_key, read_clients
from liveloop.errors import KeyUnknown, Misconfigured, NotEntitled
from liveloop.keys import asker_key, make_keys, token_keys
from liveloop.settings import Settings
from liveloop.v1 import inference_pb2, learner_pb2
from liveloop.v1.inference_pb2_grpc import InferenceServiceServicer
from liveloop.v1.learner_pb2_grpc import LearnerServiceServicer
from services.commands.keys import keys_app
from services.inference.server import InferenceServicer
from services.inference.tokens import Tokens
from services.learner.server import LearnerServicer

PREDICT = "liveloop.v1.InferenceService/Predict"
METHODS = [
    (servicer, base, service.full_name, method.name)
    for servicer, base, service in (
        (InferenceServicer, InferenceServiceServicer, inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]),
        (LearnerServicer, LearnerServiceServicer, learner_pb2.DESCRIPTOR.services_by_name["LearnerService"]),
    )
    for method in service.methods
]


class Aborted(Exception):
    pass


class Context:
    """A call without metadata."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, _: object) -> None:
        pass


class SyncContext(Context):
    def abort(self, code: grpc.StatusCode, reason: str, *_: object) -> None:
        raise Aborted(code, reason)


class AsyncContext(Context):
    async def abort(self, code: grpc.StatusCode, reason: str, *_: object) -> None:
        raise Aborted(code, reason)


def stored(path: Path, **scopes: list[Scope]) -> dict[str, str]:
    """A file with one key for each client; the keys."""
    clients = {name: Client(found) for name, found in scopes.items()}
    made = {name: new_key(client, 0.0) for name, client in clients.items()}
    path.write_bytes(clients_as_json(clients))
    return made


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def run(data: Path, *arguments: str) -> str:
    done = CliRunner().invoke(keys_app(), [*arguments, "--data", str(data)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout.strip()


def test_every_method_of_the_contract_asks_for_a_scope_and_no_other_is_listed() -> None:
    assert set(SCOPES) == {f"{service}/{method}" for _, _, service, method in METHODS}


@pytest.mark.parametrize(("servicer", "base", "service", "method"), METHODS)
def test_without_a_key_a_method_answers_nothing_but_that_it_needs_one(
    tmp_path: Path, servicer: Any, base: Any, service: str, method: str
) -> None:
    wanted = SCOPES[f"{service}/{method}"]
    if wanted is OPEN:
        return
    stored(tmp_path / "api.json", shop=list(Scope))
    assert getattr(servicer, method) is not getattr(base, method), "it answers UNIMPLEMENTED"
    bare = object.__new__(servicer)
    bare.access = Access(tmp_path / "api.json")
    with pytest.raises(Aborted) as refused:
        if servicer is InferenceServicer:
            asyncio.run(getattr(bare, method)(None, AsyncContext()))
        else:
            getattr(bare, method)(None, SyncContext())
    code, reason = refused.value.args
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert f"scope {wanted}" in reason


def test_a_key_opens_what_its_scopes_say_and_nothing_else(tmp_path: Path) -> None:
    keys = stored(tmp_path / "api.json", shop=[Scope.PREDICT])
    guard = Access(tmp_path / "api.json")
    for method, wanted in SCOPES.items():
        if wanted in (OPEN, Scope.PREDICT):
            with guard.admitted(method, bearer(keys["shop"])):
                assert caller().client == "shop"
        else:
            with pytest.raises(NotEntitled, match=f"shop lacks the scope {wanted}"), guard.admitted(method, bearer(keys["shop"])):
                pass
    assert caller() is LOCAL


def test_a_method_that_is_not_listed_is_refused_whatever_the_key_may(tmp_path: Path) -> None:
    keys = stored(tmp_path / "api.json", shop=list(Scope))
    with pytest.raises(NotEntitled, match="no scope covers"), Access(tmp_path / "api.json").admitted("x.Y/Z", bearer(keys["shop"])):
        pass


def test_a_key_has_one_spelling_and_the_first_that_a_call_shows_is_meant(tmp_path: Path) -> None:
    key = stored(tmp_path / "api.json", shop=[Scope.PREDICT])["shop"]
    guard = Access(tmp_path / "api.json")
    for header in (f"Bearer {key}", f"bearer   {key} "):
        assert key_in([("authorization", header), ("authorization", "Bearer other")]) == key
        with guard.admitted(PREDICT, [("authorization", header)]):
            pass
    for other in (key.removeprefix("ll"), f"x{key}", f"LL{key.removeprefix('ll')}", f"{key}=", "", "_"):
        with pytest.raises(KeyUnknown), guard.admitted(PREDICT, bearer(other)):
            pass


def test_a_new_key_is_kept_and_the_first_goes_whatever_the_clock_says() -> None:
    client = Client([Scope.PREDICT])
    made = [new_key(client, now).split("_")[1] for now in (100.0, 200.0, 50.0)]
    assert list(client.keys) == made[1:]
    assert set(keys_by_id({"shop": client})) == set(made[1:])


def test_an_open_method_takes_no_key_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    stored(tmp_path / "api.json", shop=[])
    guard = Access(tmp_path / "api.json")
    with guard.admitted("liveloop.v1.InferenceService/SubmitFeedback", ()):
        assert caller().scopes == frozenset()
    with pytest.raises(KeyUnknown), guard.admitted("liveloop.v1.InferenceService/SubmitFeedback", bearer("ll_0_x")):
        pass


@given(st.text(max_size=80))
def test_nothing_but_a_key_of_ours_is_let_in(shown: str) -> None:
    found = {"1": Key("shop", bytes(32), frozenset(Scope))}
    with pytest.raises(KeyUnknown), Access(Path("api.json"), found, _look_at=float("inf")).admitted(PREDICT, bearer(shown or "ll_1_")):
        pass


def test_without_a_file_everybody_may_do_what_nobody_has_to_vouch_for() -> None:
    with Access().admitted(PREDICT, ()):
        assert caller().may(Scope.OPERATE) and not caller().may(Scope.FEEDBACK)


def test_a_file_that_changes_is_read_again_and_one_that_breaks_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_LOOK", 0.0)
    path = tmp_path / "api.json"
    old = stored(path, shop=[Scope.PREDICT])["shop"]
    guard = Access(path)
    with guard.admitted(PREDICT, bearer(old)):
        pass
    new = stored(path, shop=[Scope.PREDICT], other=[])["shop"]
    with pytest.raises(KeyUnknown), guard.admitted(PREDICT, bearer(old)):
        pass
    path.write_text("{")
    with guard.admitted(PREDICT, bearer(new)):
        pass
    path.unlink()
    with guard.admitted(PREDICT, bearer(new)):  # a deleted file opens nothing
        pass
    with pytest.raises(KeyUnknown), guard.admitted(PREDICT, ()):
        pass


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.168.1.5:50051", "pod-0:50051"])
def test_beyond_loopback_no_service_starts_without_keys(tmp_path: Path, listen: str) -> None:
    settings = Settings(data=tmp_path, inference_listen=listen)
    with pytest.raises(Misconfigured, match=re.escape(f"{listen} can be reached from other machines")):
        open_access(settings)
    (tmp_path / "keys").mkdir()
    stored(tmp_path / "keys" / "api.json", shop=[Scope.PREDICT])
    assert open_access(settings).path == tmp_path / "keys" / "api.json"


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.9.1:1"])
def test_on_loopback_no_keys_are_needed(tmp_path: Path, listen: str) -> None:
    assert open_access(Settings(data=tmp_path, gateway_listen=listen)).path is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "clients": {"a": {"scopes": ["all"], "keys": {}}}}'])
def test_a_file_that_is_none_of_ours_is_one_clear_sentence_at_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "api.json").write_text(content)
    with pytest.raises(Misconfigured, match=r"API keys"):
        open_access(Settings(data=tmp_path))


def test_keys_are_made_exchanged_and_revoked_and_no_secret_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "api.json"
    first = run(tmp_path, "add", "shop", "--scope", "predict", "--scope", "read")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    later = [run(tmp_path, "rotate", "shop") for _ in range(KEYS_PER_CLIENT)]
    guard = Access(path)
    for key in later:
        with guard.admitted(PREDICT, bearer(key)):
            pass
    with pytest.raises(KeyUnknown), guard.admitted(PREDICT, bearer(first)):
        pass
    assert not any(key.split("_", 2)[2] in path.read_text() for key in (first, *later))
    assert run(tmp_path, "list").startswith("shop: predict, read")
    run(tmp_path, "revoke", "shop", later[0].split("_")[1])
    assert list(read_clients(path)["shop"].keys) == [later[1].split("_")[1]]
    run(tmp_path, "revoke", "shop")
    assert json.loads(path.read_text())["clients"] == {}


def test_tokens_of_the_key_before_stay_good_and_new_ones_are_made_with_the_new_key(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    settings = Settings(data=tmp_path)
    old = Tokens(token_keys(settings), asker_key(settings), window=60.0).sign("p", asker=b"a", version=1, propensity=1.0)
    assert "key 2" in run(tmp_path, "rotate-tokens")
    rotated = Tokens(token_keys(settings), asker_key(settings), window=60.0)
    assert rotated.verify(old, "p").asker == b"a"
    assert token_keys(settings).current == "2"
    assert (tmp_path / "keys" / "tokens.json").stat().st_mode & 0o777 == 0o600
