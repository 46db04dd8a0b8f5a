"""A notebook in JupyterLab, as a reader uses it."""

import re


class NotebookPage:
    """Open a notebook, run its cells, find what is under them."""

    def __init__(self, page, lab_url, name):
        self.page = page
        page.goto(f"{lab_url}/tree/{name}?reset")
        page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
        page.get_by_text("(ipykernel) | Idle").wait_for(timeout=60_000)  # before that, a menu asks for a kernel

    def menu(self, *labels):
        """Choose from the menu bar."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{labels[0]}$")).first.click()
        for label in labels[1:]:
            item = self.page.locator(".lm-Menu-itemLabel:visible").filter(has_text=re.compile(f"^{label}"))
            item.first.hover()
            if label is labels[-1]:
                item.first.click()

    def theme(self, name):
        """Choose a theme and wait until it is there."""
        self.menu("Settings", "Theme", f"JupyterLab {name}$")
        light = "true" if name == "Light" else "false"
        self.page.locator(f"body[data-jp-theme-light='{light}']").wait_for(state="attached")

    def run_all(self):
        """Run every cell and wait until the last one has its number, a new one."""
        self.menu("Edit", "Clear Outputs of All Cells")
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(IS_DONE, timeout=300_000)

    def cell(self, text):
        """The code cell whose source contains `text`, scrolled to."""
        cell = self.page.locator(".jp-CodeCell").filter(has=self.page.locator(".cm-content", has_text=text)).first
        cell.scroll_into_view_if_needed()
        return cell


# Every code cell has a number, and none shows the star of a cell that runs or waits.
IS_DONE = """() => {
  const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map((each) => each.textContent);
  return prompts.length > 1 && prompts.every((text) => /\\d/.test(text));
}"""
