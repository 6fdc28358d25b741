"""What himl adds to the page of MLflow's server: it opens on the newest runs, and hides what `himl_cli.mlflow` refuses.

The page of MLflow is one document. Its views are fragments of the address, such as `#/experiments/ID/runs`.
"""

from __future__ import annotations

import json

# Settings for a new browser: pages about training, without an assistant, telemetry, and an advertisement
DEFAULTS = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed": True,  # in MLflow 3.5
}
# Links, buttons, tabs and entries of menus by their text. `Traces` are files of a run.
HIDDEN_TEXTS = ["Home", "New run", "Create", "Create Model", "Create model", "Register model", "Traces", "Views"]
HIDDEN_TEXTS += ["New", "Share", "Machine learning", "Prompts", "AI Gateway", "LLM Connections", "Webhooks"]
HIDDEN_TEXTS += ["MLflow Assistant"]
HIDDEN_TEXTS_OF_MODELS = ["Add", "Edit"]
HIDDEN = [
    "div:has(> [role=button]):has(> [role=button] + [role=button] > span)",  # "GenAI | Model training"
    "[data-component-id='mlflow.experiment_list_view.new_experiment_button']",
    "[data-component-id='mlflow.experiment_list_view.bulk_delete_button']",
    "[data-component-id='mlflow.experiment.list.tag.add']",
    "[data-component-id='mlflow.settings.general.preferences-card'] > div > div:has([data-component-id*='telemetry'])",
    "[data-component-id='mlflow.settings.general.preferences-card'] > div > div:has([data-component-id*='demo'])",
    # The menu of an experiment or a model, which MLflow can neither rename nor delete. That of a run remains
    "html:not([data-himl-run]) [aria-label='Open header dropdown menu']",
]
SCRIPT = """
(function (defaults, hidden, hiddenOfModels, start) {
  for (const [name, value] of Object.entries(defaults))
    if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value))
  const isWelcome = hash => ["", "#", "#/"].includes(hash)
  if (isWelcome(location.hash)) location.replace(start)
  addEventListener("hashchange", () => { if (isWelcome(location.hash)) location.replace(start) })
  // The router of the page changes the address without an event
  addEventListener("click", event => {
    const link = event.target.closest("a")
    if (!link || !isWelcome(link.getAttribute("href"))) return
    event.preventDefault()
    event.stopPropagation()
    location.hash = start
  }, true)
  const hide = () => {
    const texts = location.hash.startsWith("#/models") ? [...hidden, ...hiddenOfModels] : hidden
    const isRun = /^#\\/experiments\\/\\d+\\/runs\\/[^?]/.test(location.hash)
    document.documentElement.toggleAttribute("data-himl-run", isRun)
    for (const each of document.querySelectorAll("a, button, [role=tab], [role=menuitem]"))
      each.toggleAttribute("data-himl-hidden", texts.includes(each.textContent.trim()))
  }
  new MutationObserver(hide).observe(document, {childList: true, subtree: true, characterData: true})
})
"""


def additions(experiment: str) -> bytes:
    """The elements for the head of the page, which opens on the runs of the *experiment* with this id, or on the list
    of experiments for an empty id."""
    start = f"#/experiments/{experiment}/runs" if experiment else "#/experiments"
    arguments = ", ".join(json.dumps(each) for each in (DEFAULTS, HIDDEN_TEXTS, HIDDEN_TEXTS_OF_MODELS, start))
    # Rules of the page are important, and more specific than these without an id
    style = f":is(#himl, [data-himl-hidden], {', '.join(HIDDEN)})"
    text = f"<style>{style} {{ display: none !important }}</style><script>{SCRIPT.strip()}({arguments})</script>"
    return text.encode()
