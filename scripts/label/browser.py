"""Debian's Chromium on the labelling page, by keyboard alone: for tests, and for a labeller that is a program.

Needs the extra `browser` and the packages `chromium` and `chromium-driver`.
"""

import os
import shutil
import tempfile

NEEDED = ("chromium", "chromedriver")
FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--window-size=1000,1100",
)  # fmt: skip


def missing() -> str:
    """What a machine lacks to open the page, in words; "" where nothing is missing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "the extra `browser` is not installed: pip install -e '.[browser]'"
    absent = [name for name in NEEDED if not shutil.which(name)]
    return f"not installed: {', '.join(absent)} (Debian: chromium, chromium-driver)" * bool(absent)


class Page:
    """A labeller's open page, a context manager; FileNotFoundError where no browser is installed."""

    def __init__(self, address: str, name: str, wait: float = 30.0):
        if lacks := missing():
            raise FileNotFoundError(lacks)
        self.address, self.name, self.wait = address, name, wait

    def __enter__(self):
        from selenium import webdriver

        self.profile = tempfile.TemporaryDirectory()
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which(NEEDED[0])
        root = ("--no-sandbox",) if os.getuid() == 0 else ()
        for flag in (*FLAGS, *root, f"--user-data-dir={self.profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which(NEEDED[1]))
        self.browser = webdriver.Chrome(options=options, service=service)
        self.browser.get(self.address)
        self.type(self.name + "\n")
        self.until(lambda: self.count())
        return self

    def __exit__(self, *_):
        self.browser.quit()
        self.profile.cleanup()

    def until(self, true):
        """Waits until a call gives something true; selenium's TimeoutException after `wait` seconds."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, self.wait, 0.01).until(lambda _: true())

    def type(self, keys: str):
        """Keys to whatever has the focus: the field for the name at first, then the page."""
        from selenium.webdriver.common.action_chains import ActionChains

        if not self.count():
            self.find("#name").click()
        ActionChains(self.browser, duration=0).send_keys(keys).perform()

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def count(self) -> str:
        """The words of progress, "3 of 20"; "" before a name was given."""
        return self.find("#count").text

    def finished(self) -> bool:
        return "All done" in self.find("#message").text

    def shown(self) -> tuple:
        """(prompt, answers) as the page's text says them, in the order on the page."""
        script = "return [document.querySelector('#prompt').textContent," \
                 "[...document.querySelectorAll('#answers .text')].map((e) => e.textContent)]"  # fmt: skip
        prompt, answers = self.browser.execute_script(script)
        return prompt, answers

    def rank(self, ranks):
        """Gives the shown answers their ranks, keeps them, and waits for what comes next."""
        before = self.count()
        self.type("".join(f"{rank}j" for rank in ranks) + "\n")
        self.until(lambda: self.count() != before)

    def errors(self) -> list:
        """What the browser's console holds against the page."""
        return [line["message"] for line in self.browser.get_log("browser")]
