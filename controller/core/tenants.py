"""Who runs how much, and whose last turn was when."""

from __future__ import annotations

from controller.core.names import ModelName, RequestId


class Tenants:
    def __init__(self) -> None:
        self._holders: dict[RequestId, str] = {}
        self._running: dict[str, int] = {}
        self._turns: dict[ModelName, dict[str, int]] = {}
        self._count = 0

    def begin(self, request: RequestId, model: ModelName, tenant: str) -> None:
        self._count += 1
        self._turns.setdefault(model, {})[tenant] = self._count
        self._holders[request] = tenant
        self._running[tenant] = self._running.get(tenant, 0) + 1

    def end(self, request: RequestId) -> None:
        tenant = self._holders.pop(request, None)
        if tenant is not None:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def running(self, tenant: str) -> int:
        """Its requests that were granted and not released."""
        return self._running.get(tenant, 0)

    def last_turn(self, model: ModelName, tenant: str) -> int:
        """The greater, the later; 0: never."""
        return self._turns.get(model, {}).get(tenant, 0)

    def forget(self, model: ModelName) -> None:
        self._turns.pop(model, None)
