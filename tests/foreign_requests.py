"""What a page of another site can have a browser send, as the browser writes it; every door must refuse all of it."""

from dataclasses import dataclass, field

EVIL = "http://evil.test"
MUTATION = "/graphql?query=mutation%7BstartSchedule%7D"
_IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
_CALL = {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "empty"}
_FORM = {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
_CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
_JSON, _PLAIN, _FILLED = (
    {"content-type": kind} for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded")
)


@dataclass(frozen=True)
class Foreign:
    """A request; `host` replaces the interface's own name."""

    name: str
    method: str = "GET"
    path: str = MUTATION
    headers: dict[str, str] = field(default_factory=dict)
    websocket: bool = False
    host: str = ""


def foreign_requests(sibling: str) -> list[Foreign]:
    """Return them all; `sibling` is the origin of another server on this machine, such as http://localhost:8888."""
    neighbour = {**_CALL, "origin": sibling, "sec-fetch-site": "same-site"}
    return [
        Foreign("image", headers=_IMAGE),
        Foreign("image of an old browser"),
        Foreign("image of a page", path="/runs", headers=_IMAGE),
        Foreign("frame", path="/runs", headers={**_IMAGE, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}),
        Foreign("clicked mutation", headers=_CLICK),
        Foreign("clicked mutation, written otherwise", path="/GraphQL/?query=mutation", headers=_CLICK),
        Foreign("no-cors GET", headers=_CALL),
        Foreign("no-cors GET that hides its page", headers={**_CALL, "origin": "null"}),
        Foreign("text/plain POST", "POST", headers={**_CALL, **_PLAIN}),
        Foreign(
            "text/plain POST that is called JSON", "POST", headers={"content-type": "text/plain; application/json"}
        ),
        Foreign("POST without a type", "POST"),
        Foreign("application/graphql POST", "POST", headers={"content-type": "application/graphql"}),
        Foreign("form", "POST", headers={**_FORM, **_FILLED}),
        Foreign("form that hides its page", "POST", headers={**_FORM, **_FILLED, "origin": "null"}),
        Foreign("form of an old browser", "POST", headers=_FILLED),
        Foreign("JSON POST", "POST", "/graphql", {**_CALL, **_JSON, "sec-fetch-mode": "cors"}),
        Foreign("JSON POST of a neighbour", "POST", "/graphql", {**neighbour, **_JSON}),
        Foreign("preflight", "OPTIONS", "/graphql", {**_CALL, "access-control-request-method": "POST"}),
        Foreign("report", "POST", "/report_asset_materialization/pix2pix", {**_CALL, **_PLAIN}),
        Foreign("REST call", "POST", "/api/2.0/mlflow/experiments/create", {**_CALL, **_PLAIN}),
        Foreign("REST call of a neighbour", "POST", "/ajax-api/2.0/mlflow/experiments/create", {**neighbour, **_PLAIN}),
        Foreign("REST read of a neighbour", path="/ajax-api/2.0/mlflow/experiments/get", headers=neighbour),
        Foreign("beacon", "POST", "/ajax-api/2.0/mlflow/runs/delete", {**_CALL, **_PLAIN}),
        Foreign("websocket", path="/graphql", headers={"origin": EVIL}, websocket=True),
        Foreign("websocket of a neighbour", path="/graphql", headers={"origin": sibling}, websocket=True),
        Foreign("websocket that hides its page", path="/graphql", headers={"origin": "null"}, websocket=True),
        Foreign("websocket without a page", path="/graphql", websocket=True),
        Foreign("rebinding", path="/runs", headers={"sec-fetch-site": "same-origin"}, host="rebound.test"),
        Foreign(
            "rebound JSON POST", "POST", "/graphql", {**_JSON, "origin": "http://rebound.test"}, host="rebound.test"
        ),
        Foreign("rebound by its end", path="/runs", host="localhost.rebound.test"),
    ]
