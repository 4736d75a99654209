"""A browser at the explorer's page, what a person does there, and what should be seen."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

SECONDS = 20
TIMES = "\u00d7"
STOPS = np.array(
    [
        [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
        [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
    ]
)  # fmt: skip
"""Ten colours at even distances, as Matplotlib has them in viridis."""


class Looking:
    """A browser at a page, and what a person does there."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address
        self.log()

    def go(self, fragment: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}#{fragment}")
        self.settle()

    def turn(self, fragment: str) -> None:
        """To another view of the page that is open."""
        self.run("location.hash = arguments[0]", fragment)
        self.settle()

    def settle(self) -> None:
        """Wait until the page shows what its address says."""
        self.wait(
            "const pane = document.getElementById('pane'), matrix = document.getElementById('matrix');"
            "return pane?.dataset.shows === location.hash.slice(1) && matrix.dataset.shows === location.hash.slice(1)"
            " && matrix.dataset.done === '1'"
        )

    def wait(self, script: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, SECONDS, 0.02).until(lambda driver: driver.execute_script(script))

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    @property
    def place(self) -> dict[str, float]:
        return {
            key: float(value)
            for key, value in self.run(
                "const {left, top, width, height, rows, columns} = document.getElementById('matrix').dataset;"
                "return {left, top, width, height, rows, columns}"
            ).items()
        }

    def middle(self, row: int, column: int) -> tuple[int, int]:
        """The pixel in the middle of a cell."""
        place = self.place
        return (
            int(place["left"] + place["width"] * (column + 0.5) / place["columns"]),
            int(place["top"] + place["height"] * (row + 0.5) / place["rows"]),
        )

    def click(self, row: int, column: int) -> None:
        """With the mouse, in the middle of a cell."""
        from selenium.webdriver import ActionChains

        canvas = self.driver.find_element("id", "matrix")
        x, y = self.middle(row, column)
        size = canvas.size
        ActionChains(self.driver, duration=0).move_to_element_with_offset(
            canvas, x - size["width"] // 2, y - size["height"] // 2
        ).click().perform()
        self.settle()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=0)
        for key in keys:
            actions.send_keys(key)
        actions.perform()
        self.settle()

    def colours(self) -> np.ndarray[Any, Any]:
        """Colours in the middles of all cells, (row, column, 3)."""
        place = self.place
        cells = [
            self.middle(row, column) for row in range(int(place["rows"])) for column in range(int(place["columns"]))
        ]
        read = self.run(
            "const context = document.getElementById('matrix').getContext('2d');"
            "return arguments[0].map(([x, y]) => Array.from(context.getImageData(x, y, 1, 1).data.slice(0, 3)))",
            cells,
        )
        return np.array(read).reshape(int(place["rows"]), int(place["columns"]), 3)

    def pair(self) -> dict[str, str]:
        """What the pane says of a pair, by variable."""
        found: dict[str, str] = self.run(
            "return Object.fromEntries(Array.from(document.querySelectorAll('#pane [data-value]'), (one) =>"
            "[one.dataset.value, one.textContent]))"
        )
        return found

    def log(self) -> list[Any]:
        return [entry for entry in self.driver.get_log("browser") if entry["source"] != "rendering"]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def same(text: str, value: float) -> bool:
    return text == "no value" if np.isnan(value) else float(text) == float(f"{value:.6g}")


def colour_of(value: float, low: float, high: float, *, distance: bool = False) -> np.ndarray[Any, Any]:
    share = np.clip((value - low) / (high - low), 0, 1)
    share = 1 - share if distance else share
    return np.array([np.interp(share * 9, np.arange(10), STOPS[:, band]) for band in range(3)])
