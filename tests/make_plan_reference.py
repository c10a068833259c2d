"""Makes docs/plan.md and docs/plan.schema.json of the form and of the guards: ``python -m tests.make_plan_reference``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from airflow_pipesec.guards.parameters import BASE, SENSOR, Parameter, guard_class, guard_names, parameters
from airflow_pipesec.plan_form import TEXTS
from airflow_pipesec.plan_schema import json_schema, markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "plan.md"
SCHEMA = DOCS / "plan.schema.json"
PROSE = """\
# Plans

A plan is a YAML file that says which guards stand before and after which stages of a DAG. The DAG itself has no guards; a plan
that the security team owns puts them there. Its form is strict: an unknown key, a key given twice, a guard or a parameter that is
not there is an error that names line and column.

## A first plan

`plan.yaml`, beside the DAG's file:

```yaml
version: 1
vars:
  data: /srv/training
stages:
  - task: collect
    after:
      - guard: HashManifestOperator
        root: ${data}/raw
        manifest: ${data}/manifests/raw.json
  - task: train
    before:
      - guard: HashVerificationOperator
        root: ${data}/raw
        manifest: ${data}/manifests/raw.json
```

and the DAG, with one line at its end:

```python
from airflow.sdk import dag, task

from airflow_pipesec import secure


@dag
def training():
    @task
    def collect(): ...

    @task
    def train(): ...

    @task
    def publish(): ...

    collect() >> train() >> publish()


secure(training(), "plan.yaml")
```

What Airflow then has:

```text
collect >> after_collect.hash_manifest >> before_train.hash_verification >> train >> publish
```

The guards need a key that signs: see [Keys and evidence](guards.md#keys-and-evidence). A relative path is looked for beside the
DAG's file. `secure()` adds what is missing in every mode; doing it twice changes nothing. The DAG's data edges, XComs and task
ids stay as they are, and its `default_args` do not reach the guards. When the plan does not fit, `secure()` raises `PlanError`
and the DAG is as it was.

Editors complete and check a plan whose first line is `# yaml-language-server: $schema=plan.schema.json`, with the path or the URL
of [plan.schema.json](plan.schema.json). `pipesec plan --json-schema` prints the schema of the release that is installed.

## Which tasks are meant

A rule under `stages` has at least one of `task`, `operator` and `tag`. All that it has must fit; in a list one entry is enough.

* `task`: task ids or globs, with the TaskGroup: `features.scale`, `features.*`, `"*"`.
* `operator`: class names. `BashOperator` and `airflow.providers.standard.operators.bash.BashOperator` mean the same class, and
  every class that derives from it; with `exempt` a rule means the very class alone, and names it with its module. A function of
  `@task` is meant by `"@task"`, and by `PythonOperator`.
* `tag`: tags of the DAG, since tasks have none in Airflow. The rule then counts for DAGs with that tag.
* `but_not` takes tasks out again.

Guards are never meant, nor is a plain `EmptyOperator`, which runs nothing. In a plan for `secure()` a setup or a teardown is
meant by its own id alone, not by a glob or a class. A rule that means no task is an error: the task may have been renamed. Say
`optional: true` where that is right.

Several rules may mean one task. Their guards stand in the order of the rules; the same guard with the same parameters and id
stands once. If one of the rules has `exempt:`, the task has no guards at all.

## Where guards stand

The guards of one side are a chain in a TaskGroup beside the stage: `before_STAGE` or `after_STAGE`. A guard's task id is
`before_STAGE.ID`; without `id:` its class names it, `HashVerificationOperator` is `hash_verification`, and a second one is
`hash_verification_2`. With `name: org` in the plan the groups are `org_before_STAGE`, so that two plans do not meet.

* **Before** a stage: the guards follow what the stage followed, and the stage follows the last of them. The first guard gets the
  stage's trigger rule.
* **After** a stage: what followed the stage follows the last guard.
* **Data edges stay.** A task that is given another's result still follows it, and the guard as well.
* **Branches.** A branch would skip a guard between it and its target. So a guard before a target stands beside the branch, after
  what the branch itself follows. It looks whether or not the target is chosen. After a branch there can be no guard.
* **Setup and teardown** stay as they are and can have no guards. A guard comes after the setups of its stage.
* **Mapped tasks** have one guard for all instances; a stage in a mapped TaskGroup has its guards there, once for each instance.

No stage below a guard may run unless that guard passed. Weaving looks at the trigger rule of every task below, and refuses the
DAG where it does not hold, unless the plan exempts the task or gives the guard `on_failure: warn`, which only tells.

| error | remedy |
|---|---|
| `has no task` | The rule names a task that is not there. Correct the id. |
| `no task of DAG … is meant by` | Correct the glob or the class, or say `optional: true`. |
| `would run although` | A task below the guard has a rule such as `all_done`. Give it `all_success`, or exempt it with the \
reason: a task that only sends a notification, for example. |
| `and would look whatever became of what it follows` | The stage before the guard has such a rule as well. Leave the guard at \
`all_success`. |
| `would look too early` | A guard of your own stands before the stage, but not after all that the stage follows. Add the edge. |
| `which stays as it is` | A setup or a teardown can have no guards. Exempt it with the reason, or name it under `but_not`. |
| `it chooses which of the tasks after it run` | Guard the targets of the branch, and name the branch under `but_not`. |
| `is not the guard that` | The DAG has another task of that id. Rename it. |
| `where guards of` | The DAG has a group or a task of the name `before_STAGE`. Rename it, or give the plan a `name`. |
| `has two guards of the id` | Give each its own `id`. |
| `nothing gives` | A placeholder without a value. Add it under `vars`. |

## Values, defaults and sets

```yaml
version: 1
vars:
  data: s3://ml@training/{{ run_id }}
  strict: true
defaults:
  "*":
    retries: 2
    owner: security
  HashVerificationOperator:
    manifest: ${data}/manifests/${artifact}.json
sets:
  before-release:
    - guard: EncryptionAtRestOperator
      targets: ${data}
      trust_device: ${strict}
    - guard: ReleaseGateOperator
      artifact: ${data}/model
stages:
  - task: [train, evaluate]
    vars: { artifact: raw }
    before:
      - guard: HashVerificationOperator
        root: ${data}/${artifact}
  - task: publish
    before:
      - use: before-release
environments:
  development:
    mode: report
    vars: { data: /tmp/training }
```

* `${name}` is put in when the DAG is parsed, from the rule's `vars`, else the plan's; always there are `${stage}`,
  `${stage_name}` (the id without its TaskGroup), `${dag_id}` and `${environment}`. A value that stands alone keeps its type;
  within a text it has to be text or a whole number. `$${` stands for `${`. Placeholders stand in parameters and ids of guards,
  not in values of `vars`.
* `{{ … }}` is Airflow's own template, for parameters that are templated below, and is rendered when the guard runs.
* `defaults` are laid under each guard's own parameters: first those of `"*"`, then those of the guard's name. What a guard does
  not take is an error, so `"*"` is for what all guards of the plan take.
* `sets` are lists of guards by name; `use` puts one in place. A set cannot use another.
* `environments` are laid over the plan; `secure(dag, plan, environment="development")` or `[pipesec] environment` says which.
  Rules are added, values, defaults and sets of the same name replaced. Without an environment none is. One that the plan does not
  have is an error.

A guard of your own is named `package.module.Class`; it has to derive from `GuardOperator` or `GuardSensor`. Parameters that take
a function are not for plans.

## Policy

`policy:` is the [policy](policies.md) of all guards that have none of their own, as a mapping or as the path of a file on the
workers. An entry's goes before its environment's, and that before the plan's; they are not merged. A release gate takes only
waivers of the control that it can waive, and of a mapping it is given only those.

## For the whole organisation

With `plan_url` every DAG that Airflow parses is held against one plan, in the DAG processor and again on the worker. The DAGs'
files need no line of it.

| `[pipesec]` | meaning |
|---|---|
| `plan_url` | absolute path or URL of the plan. The DAG processor and every worker read it, \
with their own credentials. One that cannot be read refuses every DAG. |
| `plan_keys` | file of the public keys that may sign the plan. With it, a plan that none of them signed refuses every DAG. |
| `plan_mode` | `enforce`, `weave` or `report`, whatever the plan says. With `report` no DAG is refused, also when the plan \
cannot be read: a way to begin. |
| `environment` | the environment of plans that this Airflow is. |

| mode | what becomes of a DAG that lacks guards |
|---|---|
| `enforce` | It is refused with an import error that says what to add. The author's own guards count: of the class that the \
plan names, with the parameters that it gives and no others, where they hold. In ids, owner, queue, pool, retries, timeouts and \
callbacks (but `on_execute_callback`) they may differ, unless the plan gives them. |
| `weave` | The guards are added. It is refused where they would not hold. |
| `report` | It is logged as a warning, and runs as it is. |

```yaml
version: 1
name: org
mode: enforce
unmatched: refuse
dags:
  - bundle: sandbox
    exempt: Nothing from there is shipped, and its workers reach no production data.
  - bundle: "team-*"
    mode: weave
  - dag_id: "train_*"
    tag: [personal-data]
    stages:
      - task: "*"
        before:
          - guard: EncryptionAtRestOperator
            targets: /srv/${dag_id}
stages:
  - task: "publish*"
    optional: true
    before:
      - guard: ReleaseGateOperator
        artifact: /srv/${dag_id}/model
  - operator: acme.operators.ScratchFolderOperator
    optional: true
    exempt: Makes an empty folder, and reads no data.
```

An entry under `dags` means a DAG by `dag_id`, `tag` and `bundle`; all that it has must fit. Of several entries that mean one DAG
all count: their rules are added to the plan's. The mode is the strictest that an entry without `tag` gives, else the
environment's, else the plan's, else `enforce`; an entry with `tag` can only make it stricter. An entry with `exempt` wins. A DAG
that no entry means is refused when the plan's mode is `enforce`, and let be otherwise; `unmatched` says it outright. A plan
without `dags` is for every DAG.

Unlike with `secure()`, a glob also means setups, teardowns and guards that are not of this package: a DAG's author must not be
able to call a stage a setup. Only the plan exempts them.

**What an author can choose.** DAG ids, task ids, tags and classes are what the author of a DAG writes; the bundle is given by who
deploys. So

* a tag can only ask for more: an entry with `tag` has no `policy`, `vars`, `defaults`, `sets` or `exempt`, no rule in it exempts,
  and neither does a rule with `tag`;
* what is exempt by `operator` is named with its module, and only that very class is, none that derives from it;
* ids are for you to weigh: who exempts tasks called `notify_*` lets every author have such tasks, and who exempts a `dag_id` lets
  every author take it. Exempt by `bundle`, and let the plan itself ask for what every DAG needs.

## Signed plans

`pipesec plan plan.yaml --sign file:/secure/plan.pem -o plan.signed` checks the plan and writes it into a signed envelope (DSSE).
Let `plan_url` name that file and `plan_keys` the public keys, as `pipesec keygen --signing` prints them. Use a key for plans
alone, and keep it from the workers: whoever can sign plans decides which guards there are. Without `plan_keys` a signature is not
looked at.

## What weaving cannot do

Weaving helps against guards that were forgotten, misplaced or removed. It does not make untrusted DAG files safe.

* **A DAG's author runs Python** in the DAG processor and on the worker, in the same process as the policy and before it. Such
  code can change what the policy does. Review of DAGs remains necessary. A [release gate](guards.md) and `pipesec verify-run`
  elsewhere look at signed evidence, not at the DAG; [threat-model.md](threat-model.md) says what that is good against.
* **Templates are steered.** A parameter that reads `params`, `dag_run.conf` or an XCom is decided by who may trigger the run, or
  by the task that pushes the XCom. A run id, too, can be given by who triggers the run. Take paths from the plan and from
  `${dag_id}`.
* **Between guard and stage** a file can change. `airflow_pipesec.consume` gives a stage the bytes that were verified.
* **States can be set by hand.** A guard that somebody marks as success has no evidence, and a release gate sees that; the next
  stage does not.
* **Only tasks are guarded.** What a task reads besides, and what another DAG does with the same files, the plan does not know.
"""
PLACES = {"the plan": "", "an environment": "Environment", "an entry of `dags`": "Dags", "a rule": "Stage", "a guard": "Item"}
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`", "object": "mapping"}
NUMBERS = {2: "two", 3: "three"}


def schema_text() -> str:
    """Return docs/plan.schema.json."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def kind(schema: dict[str, Any]) -> str:
    """Say in words which values a schema takes; null goes without saying."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(kind, schema["anyOf"]))))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    types = schema.get("type", [])
    if isinstance(types, list):
        return " or ".join(dict.fromkeys(kind({**schema, "type": one}) for one in types if one != "null"))
    if types == "array":
        if "prefixItems" in schema:
            return f"list of {NUMBERS[len(schema['prefixItems'])]} texts"
        return "list of texts" if schema["items"].get("type") == "string" else "list"
    return WORDS.get(types, "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"


def keys() -> Iterator[tuple[str, str, str, str]]:
    """Yield every key of the form: its name, where it may stand, its type and its text."""
    schema = json_schema()
    parts = {place: schema["$defs"].get(name, schema)["properties"] for place, name in PLACES.items() if name != "Item"}
    parts["a guard"] = schema["$defs"]["own_guard"]["properties"] | schema["$defs"]["use"]["properties"]
    for key, text in TEXTS.items():
        places = [place for place, properties in parts.items() if key in properties]
        form = parts[places[0]][key]
        if "$ref" in form:
            form = schema["$defs"][form["$ref"].rpartition("/")[2]]
        yield f"`{key}`", ", ".join(places), kind(form), markdown(text)


def row(one: Parameter) -> tuple[str, str, str, str, str]:
    """Return what a table has of one parameter."""
    if one.required:
        default = "required"
    else:
        value = list(one.default) if isinstance(one.default, tuple) else one.default
        default = "" if value is None else f"`{json.dumps(value)}`"
    form = TypeAdapter(one.hint).json_schema()
    templated = one.templated and "enum" not in form  # a plan takes one of these words there, and no template
    return f"`{one.name}`", kind(form), default, "yes" if templated else "", markdown(one.text)


def parameter_table(given: Iterable[Parameter]) -> str:
    """Return the table of some parameters."""
    return table(("parameter", "type", "default", "templated", "meaning"), map(row, given))


def guards() -> Iterator[str]:
    """Yield a section for what is common, and one for each guard."""
    every = {name: parameters(guard_class(name)) for name in guard_names()}
    sensors = [name for name in every if name.endswith("Sensor")]
    common = {name for name in every[sensors[0]] if all(name in given for given in every.values())} - {"aws_conn_id"}
    waiting = {"mode", *SENSOR}
    first = every[sensors[0]]
    order = [*(name for name in common if name not in BASE), *BASE]
    yield "### Every guard\n"
    yield parameter_table(first[name] for name in sorted(order, key=list(first).index))
    yield "### Every sensor\n"
    yield parameter_table(first[name] for name in first if name in waiting)
    for name, given in every.items():
        operator = f"{name.removesuffix('Sensor')}Operator"
        if name in sensors and operator in every and every[operator].keys() == given.keys() - waiting:
            continue
        sensor = f"{name.removesuffix('Operator')}Sensor"
        also = f" `{sensor}` waits until it is so, with the same parameters and those of every sensor." if sensor in every else ""
        head = markdown(" ".join((guard_class(name).__doc__ or "").partition("\n\n")[0].split())).partition(" The parameters")[0]
        yield f"### {name}\n"
        yield textwrap.fill(head + also, 130, break_long_words=False, break_on_hyphens=False) + "\n"
        yield parameter_table(one for one in given.values() if one.name not in common | waiting)


def page() -> str:
    """Return docs/plan.md."""
    return "\n".join(
        [
            PROSE,
            "## Every key\n",
            table(("key", "stands in", "type", "meaning"), keys()),
            "## Guards and their parameters\n",
            "Where the type is no text, a placeholder `${name}` alone may stand. What is required may come from `defaults`.\n",
            *guards(),
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
