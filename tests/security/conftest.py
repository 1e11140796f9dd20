"""The service and bundles of tests/service, for the tests of what must not get in."""

from __future__ import annotations

from tests.service.conftest import models, service

__all__ = ["models", "service"]
