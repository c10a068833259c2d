#!/bin/sh
# Makes ready what the components need: the database, an administrator, the service account that RBACAssertionOperator and the
# release gate ask with, the key that signs evidence, and the key of the example DAG. Runs once before they start; what is there
# already stays as it is.
set -eu
export AIRFLOW__LOGGING__LOGGING_LEVEL=ERROR

# Passwords come in by standard input or a file: an argument could be read by whoever lists the processes.
person() { # name, role, the file of the password
  if ! { cat "$3"; echo; cat "$3"; echo; } | airflow users create --username "$1" --role "$2" --firstname "$1" --lastname airflow \
    --email "$1@airflow.invalid" 2>"$scratch/said"; then
    cat "$scratch/said" >&2 # of what goes well it is a warning that the password is not typed
    exit 1
  fi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
airflow db migrate
airflow roles create pipesec_service
airflow roles add-perms pipesec_service --action can_read --resource Users Roles DAGs "Audit Logs" "DAG Runs" "HITL Detail" \
  "Task Instances"
person admin Admin /run/secrets/admin_password
person service pipesec_service /run/secrets/service_password

python - /opt/airflow/signing/signing.pem /opt/airflow/trust/trusted-keys.yaml <<'PYTHON'
"""Make the key that signs evidence, and the file that says it is trusted, each once."""
import sys
from datetime import UTC, datetime
from pathlib import Path

from airflow_pipesec.signing import LocalSigner, entry_of, new_private_key

key, trusted = map(Path, sys.argv[1:])
if not key.exists():
    beside = key.with_suffix(".tmp")
    beside.unlink(missing_ok=True)  # of a start that was stopped in the middle
    new_private_key(beside)
    beside.rename(key)
signer = LocalSigner.from_pem(key.read_bytes())
if not trusted.exists():
    beside = trusted.with_suffix(".tmp")
    beside.write_text(entry_of(signer.public_key, name="docker", valid_from=datetime.now(UTC)))
    beside.chmod(0o644)
    beside.rename(trusted)
PYTHON
python - "$scratch" <<'PYTHON'
"""Write the connections and variables of the example to files, as Airflow imports them."""
import json
import sys
from pathlib import Path

from airflow_pipesec.keys import write_identity

scratch = Path(sys.argv[1])
identity = write_identity(scratch / "key")
service = {"conn_type": "http", "host": "api-server", "port": 8080, "schema": "http", "login": "service"}
service["password"] = Path("/run/secrets/service_password").read_text()
key = {"conn_type": "generic", "password": identity.reveal()}
(scratch / "connections.json").write_text(json.dumps({"airflow_api": service, "pipesec_example_key": key}))
(scratch / "variables.json").write_text(json.dumps({"pipesec_example_recipient": str(identity.recipient)}))
PYTHON
if ! airflow connections get pipesec_example_key >/dev/null 2>&1; then
  # The variable first: a key without its other half is made anew, with it nothing is.
  airflow variables import "$scratch/variables.json"
  airflow connections import "$scratch/connections.json"
fi
echo "ready"
