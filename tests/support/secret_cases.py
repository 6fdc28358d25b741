"""What is a secret, and what is none: the forms of real tokens, made at random here, names with their values, and
texts.

`FORMS` is the list of forms that are secrets under any name. A form is a text with `{…}` for random characters: the
alphabet, and how many. `SECRET_FILES` and `HARMLESS_FILES` are files by name, with texts of such forms.
"""

from __future__ import annotations

import re
import shlex
import string
from base64 import b64encode
from random import Random

ALPHABETS = {
    "a": string.ascii_letters + string.digits,
    "u": string.ascii_letters + string.digits + "_-",
    "b": string.ascii_letters + string.digits + "+/",
    "U": string.ascii_uppercase + string.digits,
    "l": string.ascii_lowercase + string.digits,
    "x": "0123456789abcdef",
    "d": string.digits,
    "w": string.ascii_lowercase,
}
FORMS = r"""
hf_{a34}
api_org_{a34}
ghp_{a36}
gho_{a36}
ghs_{a36}
github_pat_{a22}_{a59}
glpat-{u20}
gldt-{u20}
npm_{a36}
dckr_pat_{u27}
pypi-AgEIcHlwaS5vcmc{u150}
sk-{a48}
sk-proj-{u120}
sk-ant-api03-{u95}
sk-or-v1-{x64}
sk_live_{a24}
rk_test_{a24}
AKIA{U16}
ASIA{U16}
xoxb-{d12}-{d12}-{a24}
xapp-1-{U11}-{d13}-{x64}
AIza{u35}
GOCSPX-{u28}
ya29.{u60}
gsk_{a52}
r8_{a37}
xai-{a80}
pplx-{a48}
nvapi-{u64}
dapi{x32}
hvs.{u90}
ABIA{U16}
whsec_{a32}
ntn_{a43}
KGAT_{x32}
glcbt-{u20}
GR1348941{u20}
pcsk_{u64}
ATATT3{u180}
sq0csp-{u43}
xkeysib-{x64}-{a16}
tvly-{a32}
NRAK-{U27}
LTAI{a20}
sntrys_{u80}
dp.pt.{a43}
dt0c01.{U24}.{U64}
{l14}.atlasv1.{u60}
xoxe.xoxp-{d1}-{a140}
SG.{u22}.{u43}
tskey-auth-{a11}CNTRL-{a32}
lsv2_pt_{x32}_{x10}
dop_v1_{x64}
{d10}:AA{u33}
{a3}8Q~{u34}
AGE-SECRET-KEY-1{U58}
eyJ{u30}.eyJ{u60}.{u43}
-----BEGIN RSA PRIVATE KEY-----\n{b64}\n{b64}\n-----END RSA PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----\n{b70}\n{b70}
https://ada:{a12}@example.org/simple
https://{a40}@example.org/lab.git
postgresql+psycopg2://ada:{a12}@db.example.org/runs
mongodb+srv://ada:{a12}@example.org
redis://:{a12}@example.org:6379/0
https://x.blob.core.windows.net/c/f?sv=2024-11-04&sp=r&sig={a43}%3D
https://x.s3.amazonaws.com/f?X-Amz-Date=1&X-Amz-Signature={x64}
https://hooks.slack.com/services/T{U8}/B{U8}/{a24}
DefaultEndpointsProtocol=https;AccountName=a;AccountKey={b86}==;EndpointSuffix=core.windows.net
Endpoint=sb://x.example.org/;SharedAccessKeyName=Root;SharedAccessKey={b43}=
Server=tcp:x.example.org;User ID=ada;Password={a12};Encrypt=True
Driver=ODBC;Uid=ada;Pwd={a12};
Authorization: Bearer {u40}
Authorization: Basic {b24}
-H 'X-Api-Key: {l32}'
curl -H 'authorization: token {x40}'
Authorization: {a20}1
{{"Authorization": "Negotiate {b40}"}}
-H 'Cookie: session={a40}'
curl -s -u ada:{a12} https://example.org
curl --user 'ada:{a12}' https://example.org
sshpass -p {a12} ssh example.org
docker login -u ada -p {a12} registry.example.org
Driver=ODBC;Uid=ada;Pwd={{{a12}}};
https://discord.com/api/webhooks/{d18}/{u68}
https://api.telegram.org/bot{d10}:AA{u33}/sendMessage
https://hooks.zapier.com/hooks/catch/{d6}/{l7}
Bearer {a40}
wandb login {x40}
{{"model": "gpt", "api_key": "{l32}", "n": 1}}
{{\"access_token\": \"{l32}\"}}
python -V && wandb login --relogin {x40}
password = 'two {w5} words {w5}'
passphrase: {w9}
"""
# Names whose values are secrets, by the kind of value
CHOSEN = """
--password --db_password --passwd --pwd --passphrase --smtp_pass MYSQL_PWD DB_PASS --api_key --api-key --apikey
--wandb_key --wandb-key WANDB_API_KEY
--hub_token --hf_token --use_auth_token --access_token --auth_token --token --github_token MLFLOW_TRACKING_TOKEN
--client_secret --secret --secret_key
AWS_SECRET_ACCESS_KEY AZURE_STORAGE_KEY --comet_api_key --neptune.api_token +logger.wandb.api_key
++trainer.logger.api_key --openaiApiKey --OPENAI_API_KEY_PROD
--account_key --sas_token --model.hub.token --azureml_pat APP_SECRET SECRET_KEY_BASE --registry_token
--connection_string
"""
GENERATED = (
    "--key --some_key MY_LICENCE_KEY --upload_token --tokens --auth --credential --signature --project_token "
    "--key_prod encoder.key"
)
# Arguments of open libraries that are no secrets: OpenCLIP, MONAI, transformers, diffusers, Keras, hydra, and others
ORDINARY = """
--csv-img-key filepath | --csv-caption-key title | --image_key image | --label_key label | --pred_key pred
--keys image,label
--meta_key_postfix meta_dict | --mask_token <mask> | --mask_token [MASK] | --pad_token <pad> | --eos_token </s>
--bos_token <s> | --unk_token [UNK]
--cls_token [CLS] | --sep_token [SEP] | --eos_token <|endoftext|> | --pad_token_id 0 | --eos_token_id 50256
--tokenizer_name bert-base-uncased
--tokenizer facebook/bart-large | --use_auth_token True | --use_auth_token false | --hub_token None | --token None
--use_fast_tokenizer yes
--key_dim 64 | --num_keys 8 | --key_padding_mask full | --max_tokens 4096 | --max_new_tokens 128 | --num_tokens 77
--token_type bearer
--token_type_ids 0 | --tokens_per_sample 512 | --token_dropout 0.1 | --token_count 5 | --max_token 9
--secret_santa yes
--placeholder_token <cat-toy> | --initializer_token toy | --modifier_token <new1> | --special_tokens_file tokens.json
--forced_bos_token en_XX
--text_column_key text | --target_key mask | --sort_key length | --primary_key id | --group_key patient_id
--metric_key val_loss
--state_dict_key model | --checkpoint_key teacher | --model_key state_dict | --model-key model_ema
--image_key t1c_flair_0001
--label_key Segmentation_2023-05-01 | --cache_key resnet50_imagenet_224_v2 | --key image | --keyframe 3
--keypoints 17 | --keyword dog | --monkey 1
--turkey 2 | --hotkey ctrl+k | --public_key abc | --key_file keys/id.pem | --api_key_env WANDB_API_KEY
--api_key $WANDB_API_KEY
--api_key ${WANDB_API_KEY} | --api_key ${oc.env:KEY} | --password_file /run/secrets/pw
--private_key ~/.ssh/id_ed25519 | --password_length 12
--author ada | --authors ada,bob | --pass 2 | --passes 3 | --two_pass true | --bypass true | --low_pass 0.5 | --pat 5
--patience 7 | --pathway slow
--compass north | --auth none | --auth basic | --sas on | --signature v4 | --credentials default
--distill_token true | --num_register_tokens 4
--class_token mean | --image_token_index 32000 | --query_key_value qkv | --qk_norm true | --key_bias false
--value_key v | --dataset_keys a,b
--session_key session | --user_key user_id | --item_key item_id | --label_key ${{parent.inputs.label_key}}
--image_key ${{inputs.key}}
--token ${{search_space.token}} | --stop_token "\\n" | --lang_token en | --task_token asr | image_key=image
label_key=y | data.label_key=seg
+data.image_key=image | model.key_dim=64 | tokenizer.pad_token=<pad> | ~model.mask_token | sampler.key=length
--output_key model
--commit 3f786850e387550fdab836ed7e6dc881de23001b | --checksum sha256:3f786850e387550fdab836ed7e6dc881de23001b
--secrets_dir /run/secrets
""".replace("\n", " | ")
TEXTS = """
Train a basic neural network
Basic training of a bearer network, by token counts
A bearer of good news: basic models suffice
himl submit hf_train.py
hf_train_1795705510_9d0a79bc
hf_finetune_bert_large_uncased_1795705510_9d0a79bc
hf_sentimentanalysisfinetuning_1795705510_9d0a79bc
himl submit hf_sentimentanalysisfinetuning.py
gho_exports_of_all_the_runs_1795705510 sk-learn-random-forest-classifier
glpat-x sk-SK locale, task-sk-something-that-is-quite-long-here
Set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, or name the host in NO_PROXY.
https://<user>:<password>@example.org https://${USER}:${TOKEN}@example.org
The secret: keep the learning rate low
token: a unit of text
Unknown token: '<pad>'
key: value
image_key: image
pad_token: "<pad>"
{"image_key": "image", "mask_token": "<mask>", "key_dim": 64, "use_auth_token": true}
sort_keys=True, key=lambda item: item.name
def attend(query, key, value): return key
if token == "<mask>": skip
--env_var NAME=VALUE
password: ${DB_PASSWORD}
Enter the password for the key, or a token
https://example.org/x?y=z&key=image
No run 'train_1_aa' in local workspace '.himl'.
tokenizer=bert num_tokens=5 a=b public_key=abc num_keys=3
C:\\Users\\x
An example of BEGIN PRIVATE KEY, without one
Authorization: required, see the page of the service
authorization: none
{"Authorization": "Bearer <token>", "Cookie": "<cookie>"}
-H "Authorization: Bearer $TOKEN" -H "Authorization: $AUTH" --user 1000:1000
docker run -p 8080:80 -u 1000:1000 --user root:root image
curl -u $USER:$PASSWORD https://example.org
curl -s https://example.org -o model.pt
sshpass -p $SSHPASS ssh example.org
docker login -u ada -p $PASSWORD
Driver={ODBC Driver 18 for SQL Server};Pwd={{ password }};
Cookie: chocolate=yes
A prefix such as AKIA, xoxb-, glpat- or sk- begins a token
ntn_classes and whsec_dim, ATATT as a sequence, dp.pt.tensors of dp.pt
https://discord.com/channels/1234 https://hooks.example.org/api
LTAI_loss_of_all_the_layers_together
AKIAHABARA STATION
cookie: a small cake
xai-explainability-of-all-the-models sk-image-segmentation-of-everything
"""


# Lines of the form `names: content`. Each file has that content, and `~` in it is a line break
SECRET_FILES = r"""
himl.private.toml .env .env.local prod.env .env.bak sub/.envrc InnerEyePrivateSettings.yml: KEY={a20}
.env.production.old: KEY={a20}
.ssh/id_rsa .ssh/config keys/id_ed25519 id_ed25519.bak id_rsa.old ID_RSA~ id_ecdsa.1: x
'#id_rsa#' .id_rsa.swp 'id_rsa (1)' id_rsa-copy id_rsa_backup id_dsa.gz sub/Id_Ed25519.SAVE: x
.aws/credentials .azure/msal_token_cache.json .config/gcloud/a/b.db .kube/config .kube/config.bak .docker/config.json: x
.gnupg/a.gpg .vnc/passwd: x
.netrc _netrc.bak .git-credentials .pypirc .pypirc.bak .pgpass .my.cnf .htpasswd .vault-token kaggle.json: x
kaggle.json.orig .authinfo: x
credentials.json 'credentials copy.json' credentials.backup.json secrets.toml secrets.yml.2024-01-31: {}
client_secret_1-x.apps.example.json .streamlit/secrets.toml: {}
.cache/huggingface/token .huggingface/token .config/gh/hosts.yml .config/hub .cargo/credentials.toml .m2/settings.xml: x
.subversion/auth/x: x
terraform.tfstate terraform.tfstate.backup terraform.tfstate.1700000000.backup prod.tfvars prod.auto.tfvars.json: {}
infra/.terraform/x/y: {}
.bash_history .python_history .psql_history .lesshst a.pfx a.P12 b.ppk c.jks .keystore d.kdbx e.kdbx.bak vpn.ovpn: x
cookies.sqlite cookies.sqlite.bak profile/Cookies 'profile/Login Data' cookies.txt key4.db logins.json: x
.jupyter/jupyter_cookie_secret share/jpserver-4711.json nbserver-12-open.json: {}
.jupyter/jupyter_server_config.json: {"IdentityProvider": {"token": "{x48}"}}
jupyter_notebook_config.py: c.NotebookApp.token = '{x48}'
server.pem a/server.key deploy_key: -----BEGIN OPENSSH PRIVATE KEY-----~{b64}~-----END OPENSSH PRIVATE KEY-----
notes.txt key-of-the-server.txt keys/backup: -----BEGIN OPENSSH PRIVATE KEY-----~{b64}~-----END OPENSSH PRIVATE KEY-----
both.crt: -----BEGIN CERTIFICATE-----~{b64}~-----END CERTIFICATE-----~-----BEGIN PRIVATE KEY-----~{b64}
app.yml: key: |~  -----BEGIN RSA PRIVATE KEY-----~  {b64}
app.json: {"key": "-----BEGIN PRIVATE KEY-----\n{b64}\n"}
age.txt: # created: today~AGE-SECRET-KEY-1{U58}
account.json: {~  "type": "service_account",~  "private_key": "x"~}
adc.json: {"type": "authorized_user", "refresh_token": "{u60}"}
principal.json sp.json.bak: {"appId": "x", "displayName": "ci", "password": "{u34}", "tenant": "x"}
azure-auth.json: {"clientId": "x", "clientSecret": "{a34}", "tenantId": "x"}
google.json: {"installed": {"client_id": "x", "client_secret": "x"}}
.env-prod .env_local id_rsa_github id_ed25519-work: x
oauth.yaml: auth:~  client_secret: {a24}
settings.toml: [auth]~client_secret = "{a24}"
admin.conf: apiVersion: v1~kind: Config~users:~- user:~    client-key-data: {b80}
cluster.yaml: kind: Config~apiVersion: v1~users:~- name: me~  user:~    token: {a40}
config/docker.json: {"auths": {"registry.example.org": {"auth": "{b24}"}}}
session/export.txt: # Netscape HTTP Cookie File~.example.org	TRUE	/	TRUE	0	sid	{a32}
state.json: {"cookies": [{"name": "sid", "value": "{a32}", "httpOnly": true}]}
keys.csv: User name,Access key ID,Secret access key~ada,AKIA{U16},{b40}
aws.ini: [default]~aws_secret_access_key = {b40}
requirements.txt requirements/dev.in: --extra-index-url https://ada:{a12}@pypi.example.org/simple~torch
requirements-all.txt: {w20000} --index-url https://ada:{a12}@pypi.example.org/simple
environment.yml: dependencies:~- pip:~  - --index-url https://ada:{a12}@pypi.example.org/simple
pyproject.toml: [[tool.uv.index]]~url = "https://ada:{a12}@pypi.example.org/simple"
db.cfg: url = postgresql://ada:{a12}@db.example.org/runs
.npmrc: //registry.npmjs.org/:_authToken={a36}
pip.conf: [global]~extra-index-url = https://me:{a12}@host/simple
wandb/settings: [default]~api_key = {x40}
token.json: {"refresh_token": "x"}
hf.txt: hf_{a34}
tokens/github: ghp_{a36}
ci.properties: token=glpat-{u20}
llm.conf: key: sk-{a48}
storage.json: {"connection": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={b86}=="}
web.config: <add connectionString="Server=db.example.org;Uid=ada;Pwd={a12};" />
odbc.ini: Server=db.example.org;User ID=ada;Password={a12}
gitconfig.txt: [http]~extraheader = AUTHORIZATION: basic {b24}
requests.har: {"headers": [{"name": "Authorization: Bearer {a40}"}]}
wg0.conf: [Interface]~PrivateKey = {b43}=
key.jwk: {"kty": "RSA", "n": "x", "d": "{u40}"}
session.json: {"access_token": "{a20}1{a20}"}
"""
# Files with similar names and texts that jobs may need
HARMLESS_FILES = r"""
.ssh/id_rsa.pub known.pub tests/data/id_rsa.pub id_rsa.pub.bak config config.json token credentials.py credentials.ts: x
secrets.py secrets.test.js: x
id_rsa.py tokenizer.json lib/.docker/Dockerfile .config/lint.toml secret_files.py history.txt gcloud/train.py: x
azure.py cookies.py cookies.md: x
.env.example prod.env.sample .env.template example.env .env.example.bak environment.yaml env.py .env/readme: x
settings.yml backup.py train.py.bak data.csv.gz: x
terraform.tf main.tf variables.tf.bak kubeconfig.py key.h5 keys.npy keyboard.json password_reset.html passwords.md: x
auth.py oauth2.md jupyter.py: x
kernel.json notebook.json logins.py netrc.py pypirc.md 1.txt 2.json model.1 checkpoint.bak weights.old run.sh.orig: x
copy.txt 'figure (1).txt': x
uv.lock: {w20000} url = "https://pypi.example.org/simple"
key.pem chain.crt tests/data/server.pem: -----BEGIN CERTIFICATE-----~{b64}~-----END CERTIFICATE-----
pub.key: -----BEGIN PUBLIC KEY-----~{b64}~-----END PUBLIC KEY-----
README.md docs/index.rst: Use https://user:password@host/simple or -----BEGIN PRIVATE KEY-----
tests/keys.py analysis.ipynb lib/keys.go: KEY = "-----BEGIN PRIVATE KEY-----\n{b64}\n"; TOKEN = "hf_{a34}"
how-to.txt: Write -----BEGIN PRIVATE KEY----- first, then client_secret, then https://user:password@host/
proxy.cfg: # http_proxy = http://user:password@p.example.org:8080~url = http://${USER}:${PASSWORD}@p.example.org:8080
deploy.yml: url: https://{{ user }}:{{ password }}@example.org~token: ${{ secrets.TOKEN }}
stage.yml: client_secret: ${CLIENT_SECRET}
docker-compose.yml: DATABASE_URL: postgres://postgres:postgres@db:5432/app~CACHE: redis://:secret@localhost:6379
conda.yml: dependencies:~- pip:~  - --index-url https://pypi.example.org/simple~  - x @ git+https://git@example.org/t
openapi.json: {"client_secret": {"type": "string"}, "token": "string", "methods": ["client_secret_post"]}
schema.yml: client_secret: "<client-secret>"~token_endpoint_auth_method: client_secret_post~client_secret_file: /run/s/x
app.toml: client_secret = "your-client-secret"~api_key_env = "KEY"~pad_token = "<pad>"~eos_token = "</s>"
special_tokens_map.json: {"pad_token": "<pad>", "additional_special_tokens": ["<|im_start|>"], "token": "<mask>"}
vocab.json: {"secret": 1, "password": 2, "token": 3, "PRIVATE": 4, "KEY": 5, "Authorization": 6}
labels.json: {"type": "polygon"}
pod.yml: kind: Config~name: x~users: [ada]
kustomize.yaml: kind: Config~apiVersion: v1~users:~- name: me~  user:~    exec: {command: kubelogin}
sha256.txt: 3f786850e387550fdab836ed7e6dc881de23001b3f786850e387550fdab836ed  model.ckpt
splits.txt: hf_train_1795705510_9d0a79bc~task-sk-something-that-is-quite-long-here~550e8400-e29b-41d4-a716-446655440000
hparams.yaml: commit: 3f786850e387550fdab836ed7e6dc881de23001b~image_key: image~tokenizer: bert~num_tokens: 5
known_hosts.txt: github.com ssh-ed25519 AAAAC3Nza{b60}
primary_key: id
.npmrc: save-exact=true
pip.conf: [global]~index-url = https://host/simple
wandb/settings: [default]~entity = lab
token.json: {"cls": 0}
jupyter_notebook_config.py: # c.NotebookApp.token = '<generated>'~c.NotebookApp.open_browser = False
jwks.json: {"keys": [{"kty": "RSA", "n": "{u40}", "e": "AQAB"}]}
cookies.json: {"cookies": ["oat", "chocolate"]}
names.yml: client_secret: azure_client_secret~access_token: get_access_token_from_the_vault
bin/run: #!/bin/sh~curl -H "Authorization: Bearer {a40}"
.env-example .env_template: x
sql.ini: Server=db.example.org;Trusted_Connection=yes;Password=${PASSWORD}
"""


def files_of(table: str) -> dict[str, str]:
    """The files of such a table by name, with their content."""
    files: dict[str, str] = {}
    for line in table.splitlines()[1:]:
        names, _, content = line.partition(": ")
        text = re.sub(r"\{\{([abuUlxdw]\d+)\}\}", r"{\1}", content.replace("{", "{{").replace("}", "}}"))
        files |= dict.fromkeys(
            shlex.split(names), made(text.replace("\\n", "\0"), Random(line))[0].replace("~", "\n").replace("\0", "\\n")
        )
    return files


def made(form: str, random: Random) -> tuple[str, list[str]]:
    """A text of this form, and the random characters in it that must not be shown."""
    parts: list[str] = []

    def fill(found: re.Match[str]) -> str:
        part = "".join(random.choices(ALPHABETS[found[1]], k=int(found[2])))
        part = b64encode(f"ada:{part}".encode()).decode() if "Basic" in form else part
        parts.append(part)
        return part

    text = re.sub(r"\{([abuUlxdw])(\d+)\}", fill, form)
    return text.replace("\\n", "\n").replace("{{", "{").replace("}}", "}"), [part for part in parts if len(part) >= 5]
