"""The Leases port, on a live driver: an arrival, a wait, a grant, a release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

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

    @asynccontextmanager
    async def acquire(
        self, model: str, *, request_id: str, tenant: str = "", max_wait_s: float | None = None
    ) -> AsyncIterator[Lease]:
        request = RequestId(f"{next(self._numbers)}:{request_id}")
        grant = await self._granted(request, ModelName(model), tenant, max_wait_s)
        try:
            yield Lease(
                replica=grant.replica,
                endpoint=self._driver.endpoints[grant.replica],
                state=grant.state,
                queued_s=grant.queued_s,
                wake_s=grant.wake_s,
                max_wait_s=self._limit_s(ModelName(model), max_wait_s),
            )
        finally:
            self._driver.feed(LeaseReleased(self._driver.now(), request))

    def outlook(self, model: str) -> Outlook:
        outlook = self._driver.fleet.outlook(ModelName(model))
        return Outlook(outlook.phase, outlook.estimate_s)

    def report_broken(self, lease: Lease, reason: str) -> None:
        self._driver.suspect(ReplicaId(lease.replica), reason)

    def _limit_s(self, model: ModelName, asked_s: float | None) -> float:
        return self._driver.fleet.models[model].spec.max_wait_s if asked_s is None else asked_s

    async def _granted(
        self, request: RequestId, model: ModelName, tenant: str, max_wait_s: float | None
    ) -> GrantLease:
        driver = self._driver
        waiting: asyncio.Future[GrantLease] = asyncio.get_running_loop().create_future()
        driver.grants[request] = waiting
        driver.feed(RequestArrived(driver.now(), request, model, max_wait_s, tenant))
        try:
            return await waiting
        except asyncio.CancelledError:
            driver.grants.pop(request, None)
            driver.feed(RequestCancelled(driver.now(), request))
            raise
