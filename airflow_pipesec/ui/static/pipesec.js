// What the pages do by themselves: look like the Airflow around them, lead to its pages, and have evidence verified one run at a time.
// Nothing that comes from a server or a page is ever put in as markup.
"use strict";
(() => {
  const root = document.documentElement;
  const TOKENS = ["bg", "bg-subtle", "fg", "fg-muted", "border-emphasized"];

  // Another window of this origin is Airflow's; of any other nothing can be read.
  const outer = (() => {
    try {
      return window.parent !== window && window.parent.document ? window.parent : null;
    } catch {
      return null;
    }
  })();

  function dress() {
    if (!outer) {
      root.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
      return;
    }
    const theirs = outer.document.documentElement;
    root.classList.toggle("dark", theirs.classList.contains("dark"));
    const style = outer.getComputedStyle(theirs);
    for (const name of [...TOKENS.map((token) => `--chakra-colors-${token}`), "--chakra-fonts-body"]) {
      const value = style.getPropertyValue(name).trim();
      if (value) root.style.setProperty(name, value);
    }
  }

  dress();
  if (outer) {
    new MutationObserver(dress).observe(outer.document.documentElement, { attributes: true, attributeFilter: ["class"] });
  } else {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
  }

  // In a frame, a link to one of Airflow's pages would show Airflow within Airflow: its own router is told instead.
  function lead(event) {
    const link = event.target.closest("a[data-airflow], .pipesec a, .ps-chart a");
    if (!link || !outer || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const url = new URL(link.getAttribute("href"), location.href);
    if (url.origin !== location.origin) return;
    event.preventDefault();
    outer.history.pushState(null, "", url.pathname + url.search);
    outer.dispatchEvent(new PopStateEvent("popstate", { state: null }));
  }
  document.addEventListener("click", lead);

  // Times are written in UTC; whoever reads them sees them in the browser's own zone, and UTC when pointing at them.
  for (const element of document.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.getAttribute("datetime"));
    if (Number.isNaN(moment.getTime())) continue;
    element.title = element.textContent;
    element.textContent = moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }

  const filter = document.querySelector("form.filter");
  if (filter) {
    filter.addEventListener("change", (event) => {
      if (event.target.matches("select")) filter.requestSubmit();
    });
    // An empty field says nothing, and need not stand in the address.
    filter.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData.entries()]) if (value === "") event.formData.delete(name);
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy).textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      }
    });
  }

  const SIGNS = { good: "✓", stop: "■", alarm: "!", warn: "~", run: "▸", doubt: "?", none: "○" };

  function show(run, found) {
    for (const chip of document.querySelectorAll(`[data-result="${CSS.escape(run.id)}"]`)) {
      const small = chip.classList.contains("cell");
      chip.className = small ? `cell ${found.look}` : `chip ${found.look}`;
      chip.title = `${found.run}: ${found.result}. ${found.why}`;
      if (small) chip.textContent = SIGNS[found.look] ?? "?";
      else chip.textContent = found.result;
      if (small) chip.setAttribute("aria-label", chip.title);
    }
    for (const note of document.querySelectorAll(`[data-why="${CSS.escape(run.id)}"]`)) {
      note.textContent = found.look === "good" ? "evidence verified" : found.why;
    }
    const box = document.getElementById("alarms");
    const there = document.getElementById(`alarm-${run.id}`);
    if (!box) return;
    if (found.look !== "alarm") {
      if (there) there.remove();
      box.hidden = !box.querySelector("li");
      return;
    }
    if (there) {
      there.lastChild.textContent = `: ${found.why}`;
      return;
    }
    const item = document.createElement("li");
    const link = document.createElement("a");
    item.id = `alarm-${run.id}`;
    link.href = run.href;
    link.dataset.airflow = "";
    link.textContent = `${found.dag}, ${found.run}`;
    item.append(link, `: ${found.why}`);
    box.querySelector("ul").append(item);
    box.hidden = false;
  }

  // One after the other, a few at a time: nobody's evidence store is to feel that somebody looks at a page.
  async function verify(list) {
    const told = document.getElementById("verified");
    const runs = JSON.parse(list.dataset.runs).map(([id, dag, run, href, shown]) => ({ id, dag, run, href, shown }));
    let next = 0;
    let done = 0;
    let unread = 0;
    let changed = false;
    const tell = () => {
      if (!told) return;
      const failed = unread ? ` ${unread} could not be asked for.` : "";
      told.textContent = done < runs.length ? `Verifying evidence: ${done} of ${runs.length} runs.` : `Evidence of ${done - unread} of ${runs.length} runs read.${failed}`;
    };
    const work = async () => {
      while (next < runs.length) {
        const run = runs[next++];
        try {
          const query = new URLSearchParams({ dag_id: run.dag, run_id: run.run });
          const answer = await fetch(`${list.dataset.url}?${query}`, { credentials: "same-origin", headers: { accept: "application/json" } });
          if (!answer.ok) throw new Error(String(answer.status));
          const found = await answer.json();
          changed ||= found.result !== run.shown;
          show(run, found);
        } catch {
          unread += 1;
        }
        done += 1;
        tell();
      }
    };
    tell();
    await Promise.all([work(), work(), work()]);
    // What was counted when the page was made, before the evidence was read.
    if (told && changed && document.querySelector(".ringed")) {
      const again = document.createElement("a");
      again.href = location.href;
      again.textContent = "Count again";
      told.append(" ", again);
    }
    root.dataset.verified = "done";
  }
  const list = document.getElementById("to-verify");
  if (list) verify(list);
  else root.dataset.verified = "none";
})();
