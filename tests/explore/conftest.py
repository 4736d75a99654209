"""A comparison of random values, the server that shows it, and a browser that looks."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from explored import NAMES, make_comparison, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dask_svcca.explore.server import Explorer


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of three checkpoints of four layers."""
    place = tmp_path_factory.mktemp("explore") / "comparison.zarr"
    make_comparison(place, NAMES)
    return place


@pytest.fixture(scope="session")
def explorer(store: Path) -> Iterator[Explorer]:
    with serving(store) as served:
        yield served


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none, with the reason."""
    lacking = [
        name
        for name, there in (
            ("Chromium", BROWSER),
            ("its driver, chromedriver", DRIVER),
            ("selenium", find_spec("selenium")),
        )
        if not there
    ]
    for item in items:
        if lacking and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=f"there is no {', and no '.join(lacking)}"))


@pytest.fixture(scope="session")
def open_browser() -> Iterator[Callable[..., Any]]:
    """Start a browser of a size, light or dark; all are ended with the tests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    opened: list[Any] = []

    def start(width: int = 1366, height: int = 768, *, dark: bool = False) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(BROWSER)
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        opened.append(driver)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        return driver

    yield start
    for driver in opened:
        driver.quit()


@pytest.fixture(scope="session")
def browser(open_browser: Callable[..., Any]) -> Any:
    return open_browser()
