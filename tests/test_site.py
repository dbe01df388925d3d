"""`make site`: built strictly, holds every page and name, fetches nothing, and is searched from the disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import loraplug
from command import ROOT

RESULT = ".md-search-result__item a"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a dead link, a page without a place in the navigation or any other warning ends the build."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (make installs it)")
    place = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # not with --quiet, under which mkdocs counts no warnings, so that --strict finds none
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_every_page_and_every_exported_name_is_there(site: Path) -> None:
    """The reference of the API is what `loraplug` exports."""
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file(), page
    api = (site / "api.html").read_text(encoding="utf-8")
    names = [name for name in loraplug.__all__ if not name.startswith("__")]
    missing = [name for name in names if f'id="loraplug.{name}"' not in api]
    assert missing == []


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No page loads a script, style, font or picture by an address."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe|source)[^>]*src="?(?:https?:)?//[^>]*', text) == [], page
        assert re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?(?:https?:)?//", text) == [], (
            page
        )


def test_search_works_from_the_disk_at_both_widths(site: Path) -> None:
    """In a real browser, without a server; no page is wider than a phone."""
    browser, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver, and pip install selenium")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        for width, phone in ((1280, False), (390, True)):
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": phone}
            window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for page in ("index", "options", "api", "hooks/loraplug_trainers"):
                window.get((site / f"{page}.html").as_uri())
                assert window.execute_script("return document.documentElement.scrollWidth") <= width, page
            if phone:
                window.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__search]").click()
            box = window.find_element(By.CSS_SELECTOR, ".md-search__input")
            WebDriverWait(window, 30).until(lambda _, box=box: box.is_displayed())
            box.send_keys("per_function")
            found = WebDriverWait(window, 30).until(lambda at: at.find_elements(By.CSS_SELECTOR, RESULT))
            links = [str(one.get_attribute("href")) for one in found]
            assert any("options.html" in link for link in links), links
            folder = os.environ.get("LORAPLUG_SCREENSHOTS")
            if folder:
                window.save_screenshot(str(Path(folder) / f"search-{width}.png"))
        assert [line for line in window.get_log("browser") if line["level"] == "SEVERE"] == []
    finally:
        window.quit()
