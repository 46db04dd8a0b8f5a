"""A notebook in JupyterLab, as a reader uses it."""

import re


class NotebookPage:
    """Open a notebook, run its cells, find what is under them."""

    def __init__(self, page, lab_url, name):
        self.page, self.name = page, name
        page.goto(f"{lab_url}/tree/{name}?reset")
        page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
        page.get_by_text("(ipykernel) | Idle").wait_for(
            timeout=60_000
        )  # before that, a menu asks for a kernel

    def menu(self, *labels):
        """Choose from the menu bar."""
        self.page.locator(
            ".lm-MenuBar-itemLabel", has_text=re.compile(f"^{labels[0]}$")
        ).first.click()
        for label in labels[1:]:
            item = self.page.locator(".lm-Menu-itemLabel:visible").filter(
                has_text=re.compile(f"^{label}")
            )
            item.first.hover()
            if label is labels[-1]:
                item.first.click()

    def theme(self, name):
        """Choose a theme and wait until it is there."""
        self.menu("Settings", "Theme", f"JupyterLab {name}$")
        light = "true" if name == "Light" else "false"
        self.page.locator(f"body[data-jp-theme-light='{light}']").wait_for(state="attached")

    def run_all(self):
        """Run every cell and wait until the last one has its number, a new one.

        Fails at once when a cell fails.
        """
        self.menu("Edit", "Clear Outputs of All Cells")
        try:
            self.begin()
            self.page.wait_for_function(IS_AT_ITS_END, timeout=300_000)
        except Exception as error:
            prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
            at = self.page.evaluate(STILL_RUNNING)
            raise AssertionError(f"{self.name}: {prompts}, still at this cell:\n{at}") from error
        # Not inner_text: it is empty for what is out of view.
        errors = self.page.locator(f".jp-Notebook:visible {STDERR}").all_text_contents()
        assert not errors, f"{self.name}:\n" + "\n".join(errors)

    def begin(self):
        """Choose "Run All Cells" until cells are marked as waiting.

        On a busy machine a menu closes under the click.
        """
        for _ in range(3):
            self.menu("Run", "Run All Cells")
            for _ in range(20):
                if self.page.evaluate(HAS_BEGUN):
                    return
                self.page.wait_for_timeout(500)
        raise AssertionError("no cell was run")

    def cell(self, text):
        """The code cell whose source contains `text`, scrolled to."""
        cell = (
            self.page.locator(".jp-CodeCell")
            .filter(has=self.page.locator(".cm-content", has_text=text))
            .first
        )
        cell.scroll_into_view_if_needed()
        return cell

    def run_slowly(self, panel, steps):
        """Slow a panel's pace down by so many presses of a key, run it, and wait until its messages are on their way."""
        panel.locator(".widget-hslider", has_text="pace").locator(".noUi-handle").focus()
        for _ in range(steps):
            self.page.keyboard.press("ArrowRight")
        panel.get_by_role("button", name="Run").click()
        panel.get_by_text("running: message").wait_for(timeout=30_000)

    def pictures(self, sources):
        """In each theme, what is under the cells whose sources are these: (a name for it with the theme, the output)."""
        for theme in ("Dark", "Light"):
            self.theme(theme)
            for name, source in sources.items():
                yield f"{self.name[:2]}-{name}-{theme.lower()}", self.picture(source)

    def picture(self, source):
        """What is under a cell, in view.

        Cells above it that are drawn meanwhile push it out, so it is scrolled to again.
        """
        for _ in range(120):
            output = self.cell(source).locator(".jp-OutputArea-output").last
            output.scroll_into_view_if_needed()
            if output.locator(":is(svg, canvas, table, pre, .js-plotly-plot):visible").count():
                return output
            self.page.wait_for_timeout(500)
        raise AssertionError(
            f"{self.name}: no picture under {source!r}, but:\n{output.inner_text()}"
        )


# JupyterLab shows the traceback of a cell that failed as it shows what was written to stderr.
STDERR = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"

# Some code cell has a star or a number.
HAS_BEGUN = """() => [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].some(
  (each) => /[*\\d]/.test(each.textContent))"""

# The source of the first cell with a star.
STILL_RUNNING = """() => {
  const cells = [...document.querySelectorAll(".jp-CodeCell")];
  const at = cells.find((each) => each.querySelector(".jp-InputPrompt")?.textContent.includes("*"));
  return at ? at.querySelector(".cm-content")?.innerText : null;
}"""

# Every code cell has a number; or one failed, and no cell has the star of one that runs or waits.
IS_AT_ITS_END = f"""() => {{
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map((each) => each.textContent);
  const failed = document.querySelector("{STDERR}") && !prompts.some((text) => text.includes("*"));
  return failed || (prompts.length > 1 && prompts.every((text) => /\\d/.test(text)));
}}"""
