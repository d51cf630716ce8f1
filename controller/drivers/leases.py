"""The Leases port, on a live driver: an arrival, a wait, a grant, a release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from itertools import count
from types import TracebackType

from controller.core.commands import GrantLease
from controller.core.events import LeaseFound, LeaseReleased, RequestArrived, RequestCancelled
from controller.core.names import (
    NO_AFFINITY,
    Affinity,
    ModelName,
    ModelState,
    Priority,
    ReplicaId,
    RequestId,
    model_of,
)
from controller.drivers.live import LiveDriver
from controller.ports import Lease, Outlook
from workers.engine import Endpoint


class LiveLeases:
    """Requests are numbered here: the caller's own id may come twice, the core's must not."""

    def __init__(self, driver: LiveDriver) -> None:
        self._driver = driver
        self._numbers = count(1)

    def acquire(
        self,
        model: str,
        *,
        request_id: str,
        tenant: str = "",
        max_wait_s: float | None = None,
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> Claim:
        request = self._numbered(request_id)
        name = ModelName(model)
        return Claim(
            self._driver, request, name, tenant, max_wait_s, priority, affinity, can_freeze
        )

    def kept(self, replica: str, request_id: str, can_freeze: bool = True) -> Claim:
        """Of a lease that is in use though this fleet did not grant it."""
        driver, request, id_ = self._driver, self._numbered(request_id), ReplicaId(replica)
        claim = Claim(driver, request, model_of(id_), "", None)
        claim.granted.set_result(GrantLease(request, id_, ModelState.AWAKE, 0.0, 0.0))
        driver.feed(LeaseFound(driver.now(), request, id_, can_freeze))
        return claim

    def outlook(self, model: str) -> Outlook:
        outlook = self._driver.fleet.outlook(ModelName(model))
        return Outlook(outlook.phase, outlook.estimate_s)

    def frozen(self) -> Collection[Endpoint]:
        return self._driver.frozen

    def when_frozen(self, tell: Callable[[], None]) -> None:
        """``tell`` is called whenever others are."""
        self._driver.froze.append(tell)

    def report_broken(self, lease: Lease, reason: str) -> None:
        self._driver.suspect(ReplicaId(lease.replica), reason)

    def _numbered(self, request_id: str) -> RequestId:
        return RequestId(f"{next(self._numbers)}:{request_id}")


class Claim:
    """Of one request to a lease. As a context it waits for the lease, which lasts as long; by
    hand: begin(), lease() once ``granted`` is done, end()."""

    __slots__ = (
        "_affinity",
        "_can_freeze",
        "_driver",
        "_max_wait_s",
        "_model",
        "_priority",
        "_request",
        "_tenant",
        "granted",
    )

    def __init__(
        self,
        driver: LiveDriver,
        request: RequestId,
        model: ModelName,
        tenant: str,
        max_wait_s: float | None,
        priority: Priority = Priority.DEFAULT,
        affinity: Affinity = NO_AFFINITY,
        can_freeze: bool = True,
    ) -> None:
        self.granted: asyncio.Future[GrantLease] = asyncio.get_running_loop().create_future()
        self._driver = driver
        self._request = request
        self._model = model
        self._tenant = tenant
        self._max_wait_s = max_wait_s
        self._priority = priority
        self._affinity = affinity
        self._can_freeze = can_freeze

    async def __aenter__(self) -> Lease:
        try:
            await self.begin()
            return self.lease()
        except BaseException:
            self.end()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def begin(self) -> asyncio.Future[GrantLease]:
        """Done at once where nothing has to be waited for; its exception is Refused."""
        driver = self._driver
        driver.grants[self._request] = self.granted
        driver.feed(
            RequestArrived(
                driver.now(),
                self._request,
                self._model,
                self._max_wait_s,
                self._tenant,
                self._priority,
                self._affinity,
                self._can_freeze,
            )
        )
        return self.granted

    def lease(self) -> Lease:
        """Raises Refused."""
        grant = self.granted.result()
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

    def end(self) -> None:
        """Withdraws or releases it, whichever it is; nothing where it was refused."""
        driver, request, granted = self._driver, self._request, self.granted
        if granted.cancelled() or not granted.done():
            driver.grants.pop(request, None)
            driver.feed(RequestCancelled(driver.now(), request))
        elif granted.exception() is None:
            driver.feed(LeaseReleased(driver.now(), request))
