#!/bin/sh
# Makes the passwords and keys that compose.yaml hands out as files, in secrets/ beside this script, once:
# what is there already is left alone. The folder is closed to others; the files are not, because the users inside
# the containers, who are not you, have to read them.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -p -m 0700 secrets
cd secrets

word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -e "$1" ] || cat > "$1"; }

word | keep postgres_password
printf 'postgresql://imagen:%s@database/imagen\n' "$(cat postgres_password)" | keep database_url

key=imagen secret=$(word)
keep aws_credentials <<END
[default]
aws_access_key_id = $key
aws_secret_access_key = $secret
END
secret=$(sed -n 's/^aws_secret_access_key = //p' aws_credentials)
keep s3_identities.json <<END
{"identities": [{
  "name": "imagen",
  "credentials": [{"accessKey": "$key", "secretKey": "$secret"}],
  "actions": ["Read:pictures", "Write:pictures", "List:pictures"]
}]}
END

# The webhooks of every machine are signed with this; changing it later tells receivers that we are somebody else.
word | keep webhooks_secret
# The key that Prometheus reads /metrics with; filled by: imagen keys add prometheus --admin
keep metrics_key < /dev/null
echo "secrets/ has: $(echo *)"
