"""Whose key the gateway shows to the services."""

from __future__ import annotations

from pathlib import Path

import httpx

from liveloop.settings import Settings
from services.commands.processes import Loop, free_settings
from tests.unit.fake_services import FakeLoop, serve


def test_the_callers_key_goes_on_and_the_gateways_own_stands_in_for_asking_and_never_for_judging(tmp_path: Path):
    key = tmp_path / "gateway.key"
    key.write_text("ll_1_gateway\n")
    with serve(FakeLoop()) as fake:
        update = {"inference_target": fake.target, "learner_target": fake.target, "gateway_key_file": key}
        settings = free_settings(Settings(data=tmp_path)).model_copy(update=update)
        with Loop(settings, services=("gateway",)), httpx.Client(base_url=f"http://{settings.gateway_listen}", trust_env=False) as http:

            def shown(path: str, body: dict[str, str], **headers: str) -> list[str]:
                fake.keys.clear()
                http.post(path, json=body, headers=headers)
                return fake.keys

            assert shown("/v1/predict", {"text": "x"}) == ["Bearer ll_1_gateway"]
            assert shown("/v1/feedback", {"thumb": "up"}) == []
            for path, body in (("/v1/predict", {"text": "x"}), ("/v1/feedback", {"thumb": "up"})):
                assert shown(path, body, Authorization="Bearer ll_2_ann") == ["Bearer ll_2_ann"]
            for wrong in (b"Bearer \xff", b"Bearer a\tb"):
                refused = http.post("/v1/predict", json={"text": "x"}, headers={b"Authorization": wrong})
                assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
