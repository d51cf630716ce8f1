"""The Leases port, on a live driver: an arrival, a wait, a grant, a release."""

from __future__ import annotations

import asyncio
from itertools import count
from types import TracebackType

from controller.core.commands import GrantLease
from controller.core.events import LeaseReleased, RequestArrived, RequestCancelled
from controller.core.names import ModelName, ReplicaId, RequestId
from controller.drivers.live import LiveDriver
from controller.ports import Lease, Outlook


class LiveLeases:
    """Requests are numbered here: the caller's own id may come twice, the core's must not."""

    def __init__(self, driver: LiveDriver) -> None:
        self._driver = driver
        self._numbers = count(1)

    def acquire(
        self, model: str, *, request_id: str, tenant: str = "", max_wait_s: float | None = None
    ) -> _Acquired:
        request = RequestId(f"{next(self._numbers)}:{request_id}")
        return _Acquired(self._driver, request, ModelName(model), tenant, max_wait_s)

    def outlook(self, model: str) -> Outlook:
        outlook = self._driver.fleet.outlook(ModelName(model))
        return Outlook(outlook.phase, outlook.estimate_s)

    def report_broken(self, lease: Lease, reason: str) -> None:
        self._driver.suspect(ReplicaId(lease.replica), reason)


class _Acquired:
    """The lease of one request, while its context lasts."""

    __slots__ = ("_driver", "_max_wait_s", "_model", "_request", "_tenant")

    def __init__(
        self,
        driver: LiveDriver,
        request: RequestId,
        model: ModelName,
        tenant: str,
        max_wait_s: float | None,
    ) -> None:
        self._driver = driver
        self._request = request
        self._model = model
        self._tenant = tenant
        self._max_wait_s = max_wait_s

    async def __aenter__(self) -> Lease:
        grant = await self._granted()
        try:
            return self._lease(grant)
        except BaseException:
            self._release()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        self._driver.feed(LeaseReleased(self._driver.now(), self._request))

    def _lease(self, grant: GrantLease) -> Lease:
        driver, limit_s = self._driver, self._max_wait_s
        if limit_s is None:
            limit_s = driver.fleet.models[self._model].spec.max_wait_s
        return Lease(
            replica=grant.replica,
            endpoint=driver.endpoints[grant.replica],
            state=grant.state,
            queued_s=grant.queued_s,
            wake_s=grant.wake_s,
            kv_identity=driver.kv_identities.get(grant.replica, ""),
            max_wait_s=limit_s,
        )

    async def _granted(self) -> GrantLease:
        driver, request = self._driver, self._request
        waiting: asyncio.Future[GrantLease] = asyncio.get_running_loop().create_future()
        driver.grants[request] = waiting
        driver.feed(
            RequestArrived(driver.now(), request, self._model, self._max_wait_s, self._tenant)
        )
        try:
            return await waiting
        except asyncio.CancelledError:
            driver.grants.pop(request, None)
            driver.feed(RequestCancelled(driver.now(), request))
            raise
