# Tab completion of himl in PowerShell 5.1 and later, as `himl completion powershell` prints it.
# The table of himl is generated; what stands after it is the same for any table.

Register-ArgumentCompleter -Native -CommandName 'himl', 'himl.exe' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    # Of each command: commands below it and options, both with their help, and the kinds of its arguments.
    $table = @{
        'himl' = @{
            Verbs = @(
                'submit', 'Run a script, a module or a shell script as a job',
                'runs', 'List, show, follow, cancel, tag and delete runs',
                'ui', 'Show runs in MLflow''s user interface',
                'tb', 'Show runs in TensorBoard, also while they go on',
                'download', 'Download the files of runs, checked by MD5',
                'checkpoint', 'Fetch checkpoints of runs, push changed ones, make links',
                'datastore', 'Upload, download and list files of a datastore',
                'montage', 'Show any number of slides in one picture',
                'tiles', 'Cut slides into tiles, and list them in a CSV',
                'dsa', 'Upload annotations of slides to a Digital Slide Archive',
                'init', 'Set up this folder for an Azure ML workspace, or a local one',
                'workspace', 'Show which workspace is meant, and what it is',
                'doctor', 'Check what himl needs, and say what to do about it',
                'completion', 'Tab completion of himl in bash, zsh, fish and PowerShell',
                'skill', 'Print or install a skill file for coding agents',
                'schema', 'Print the JSON Schema of what --json prints'
            )
            Rows = @(
                '--version', 'Show the version and exit',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl submit' = @{
            Verbs = @(
            )
            Rows = @(
                '-m=', 'A module, as python -m takes it',
                '--command=', 'A command line, of any program, in place of TARGET',
                '--cluster=choice:local', 'Azure ML compute, or slurm:PARTITION; absent or ''local'': here',
                '+--sbatch=', 'An option of sbatch on Slurm, as in gres=gpu:2',
                '--retries=', 'Start a job here or on Slurm that failed again, so many times',
                '--record_in=choice:local,azure', 'Where a job that runs here is recorded: local or azure',
                '--in_place', 'Run here without a snapshot, for a debugger',
                '--num_nodes=', 'Machines of the cluster',
                '--processes_per_node=', 'Processes (ranks) a machine',
                '--distribution=choice:pytorch,mpi', 'pytorch or mpi (default: pytorch for several processes a machine, else mpi)',
                '--no_mpi_single_node', 'Send a job of one process as a plain one, not as MPI',
                '--shm_size=', 'Shared memory on a cluster',
                '--instance_type=', 'Instance type of a Kubernetes or serverless compute',
                '--job_tier=choice:spot,basic,standard,premium', 'Of a serverless compute: spot (cheaper, may be preempted), basic, standard or premium',
                '+--docker_args=', 'Arguments of ''docker run'' on a cluster',
                '--identity=choice:user,managed', 'user or managed: as whom it signs in to Azure',
                '--max_run_duration=', 'End the job after that time: 30s, 30m, 2h, 1.5d',
                '--vscode', 'Let VS Code connect to the job on a cluster',
                '--jupyter', 'Run JupyterLab beside the job on a cluster',
                '--ssh_key=files', 'Let the owner of this public key sign in to the job by SSH',
                '--create_cluster', 'Make a pipeline''s cluster where it is missing (size: .env)',
                '--python=files', 'The interpreter here (default: the active environment''s)',
                '--snapshot_root=folders', 'The folder that is sent (default: the project''s)',
                '+--ignored_folders=list+folders', 'Folders to leave out as well',
                '+--include_secret=', 'Send these files, which may hold secrets, on purpose',
                '+--conda_env=list+files:.yml,.yaml', 'Conda files (default: the nearest environment.yml, pylock.toml or uv.lock)',
                '--requirements=files', 'A pip requirements file, in place of a conda file',
                '--lock=files:.toml,.lock', 'A pylock.toml or uv.lock, in place of a conda file',
                '--environment=', 'A registered environment, unchanged; also azureml://registries/...',
                '--docker_image=', 'Docker image (default: one of Azure ML)',
                '--build_context=folders', 'The folder to build the Docker image from',
                '--dockerfile=files', 'The Dockerfile (default: the build context''s Dockerfile)',
                '--pip_extra_index_url=', 'One more index for pip',
                '--private_wheel=files:.whl', 'A wheel to install as well',
                '+--env_var=', 'A variable of the job',
                '--experiment=experiments', 'Experiment (default: HIML_EXPERIMENT_NAME, else the script''s name)',
                '--experiment_from_branch', 'Name the experiment after the git branch',
                '--display_name=', 'The run''s name for people',
                '--description=', 'What the run is about',
                '+--tag=', 'A tag of the run',
                '--build_branch=', 'Branch',
                '--build_source_id=', 'Commit',
                '--build_source_author=', 'Author of the commit',
                '--build_source_message=', 'Message of the commit',
                '--build_source_repository=', 'Repository',
                '--build_number=', 'Number of the build',
                '--build_user=', 'Who started the build',
                '--build_user_email=', 'Their e-mail address',
                '+--input=', 'Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]',
                '+--output=', 'Data it writes: [KEY=]NAME[,OPTION=...]',
                '+--keep=', 'Keep new files outside outputs/ and logs/ as well, as outputs, by globs as of ''himl download...',
                '--no_system_metrics', 'Record no use of CPU, memory and GPUs of a job here or on Slurm',
                '--default_datastore=', 'Datastore of inputs and outputs that name none',
                '--checkpoint=runs+files', 'Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last...',
                '+--sweep=', 'Values of --NAME: 0.1,0.01 or uniform(a,b), loguniform(a,b) (e^a to e^b), normal(mu,sigma)...',
                '--sampling=choice:grid,random,bayesian', 'grid, random, random(seed=7) or bayesian (default: grid where all are lists, else random)',
                '--max_trials=', 'Trials in all (default: the whole grid); random and bayesian need it',
                '--max_concurrent=', 'Trials at a time (default: here 1, on a cluster all)',
                '--primary_metric=', 'The metric that trials are compared by',
                '--goal=choice:minimize,maximize', 'minimize or maximize the primary metric',
                '--early_stop=choice:median', 'Stop poor trials: bandit(slack_factor=0.1), median, truncation(truncation_percentage=20)',
                '--crossval=', 'Run N splits: --crossval_index 0 to N-1',
                '--crossval_arg=', 'Another name for --crossval_index',
                '--crossval_count_arg=', 'Pass N as well, by this argument',
                '--different_seeds=', 'Run N seeds: --random_seed 0 to N-1',
                '--seed_arg=', 'Another name for --random_seed',
                '--resume=runs', 'Go on with a run that is kept here: do what is missing, or try again; needs no TARGET',
                '--wait|--no_wait', 'Wait for the end (default: here yes, on a cluster no)',
                '--follow', 'Wait, and show the output as it comes (always so here)',
                '--notify=', 'Post how the run ended to this webhook; better set in himl.private.toml',
                '--notify_format=choice:json,slack,teams', 'json, slack or teams (default: that of the URL''s host, else json)',
                '--dry_run', 'Print the job as Azure ML YAML, or for Slurm as batch script; send nothing',
                '--show_settings', 'Show each option''s value and where it came from; run nothing',
                '--sdk=choice:v2,v1', 'v2, or v1: by the deprecated azureml-core',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('files:.py,.sh,.yml,.yaml,.json')
        }
        'himl runs' = @{
            Verbs = @(
                'list', 'List runs, newest first',
                'show', 'Show one run in full: outcome, tags, metrics, texts, trials or steps',
                'aggregate', 'Metrics of many runs side by side, with statistics',
                'logs', 'Print the log of a run, also while it runs',
                'attach', 'Show where a running job''s services answer: VS Code, JupyterLab, TensorBoard, SSH',
                'cancel', 'Stop runs',
                'tag', 'Set tags on runs; KEY= removes one',
                'archive', 'Leave runs out of lists, and keep them with all their files',
                'restore', 'Bring archived runs back to lists',
                'delete', 'Delete runs with all their files, and the runs below them; lists what goes and asks first'
            )
            Rows = @(
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl runs list' = @{
            Verbs = @(
            )
            Rows = @(
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--archived', 'Only those that were archived, which are left out otherwise',
                '--watch', 'Show them until all have ended, with progress and last metrics',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl runs show' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--machine', 'A table of what it took of CPU, memory and GPUs, too',
                '--watch', 'Show it until it has ended, with progress, last metrics and its log',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs aggregate' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--child_arg=', 'Name the columns by this tag or argument',
                '+--metrics=', 'Only metrics of these names',
                '--system', 'The machine''s metrics, system/..., alone or beside --metrics',
                '--no_stats', 'No mean, std, min, max and median',
                '--output_csv=files', 'The table as CSV',
                '--output_parquet=files', 'All points as Parquet, a row a point',
                '--plot=files', 'Curves over all runs, .png or .svg',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs logs' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--follow', 'Go on until the run has ended',
                '--file=', 'Another log than the main one, e.g. std_log_process_1.txt',
                '--try=', 'Of a job that was tried again: the Nth try''s log',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs attach' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--service=', 'One of them, by its name or kind: vscode, jupyterlab, ssh, ...',
                '--node=', 'Those of another node; the first one is 0',
                '--open', 'Open them in the browser',
                '--ssh', 'Log in by ssh; what follows -- are its options and a command',
                '--stdio', 'Be the ProxyCommand of an ssh, scp or rsync of your own',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs cancel' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs tag' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs archive' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs restore' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl runs delete' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--outputs', 'On Azure ML: the data that they registered as outputs, too',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl ui' = @{
            Verbs = @(
            )
            Rows = @(
                '--port=', 'Its port; the next free one if that is taken',
                '--host=', 'Its host; any but localhost lets other machines in',
                '--open', 'Open it in the browser',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl tb' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--log_dir=', 'Their folder inside a run; if it has none, all are taken',
                '--run_logs_dir=folders', 'Where copies go',
                '--refresh=', 'Time between looks for new runs and files',
                '--sync_only', 'Fetch once, print where they are, and end',
                '--port=', 'Its port; the next free one if that is taken',
                '--host=', 'Its host; any but localhost lets other machines in',
                '--open', 'Open it in the browser',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl download' = @{
            Verbs = @(
            )
            Rows = @(
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--prefix=', 'Only names that start so, or one file',
                '--output_key=', 'The run''s output dataset KEY, not its artifacts',
                '--list', 'List the files, download nothing',
                '+--include=', 'Only names that match, e.g. ''*.ckpt''',
                '+--exclude=', 'No names that match, e.g. ''tmp/**''',
                '--output_dir=folders', 'Files go to DIR/RUN_ID/NAME',
                '--flat', 'Files go to DIR/NAME (one run only)',
                '--strip_prefix', 'Drop the folders of the prefix from names',
                '--overwrite', 'Replace files that differ',
                '--no_validate', 'Do not check MD5s',
                '--workers=', 'Transfers at once, 1 to 256',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('list+runs...')
        }
        'himl checkpoint' = @{
            Verbs = @(
                'fetch', 'Fetch a checkpoint, and print its path alone',
                'push', 'Upload changed checkpoints to a new run, from which jobs start',
                'url', 'Print a link by which anybody can read a checkpoint'
            )
            Rows = @(
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl checkpoint fetch' = @{
            Verbs = @(
            )
            Rows = @(
                '--select=choice:last,best', 'Which one of a run; N as in the file''s name (Lightning''s begin with 0)',
                '--metric=', 'The best by this metric, in the files'' names or as logged',
                '--goal=choice:minimize,maximize', 'What is best; without it, told by well-known names of metrics',
                '--output_dir=folders', 'The folder it goes to',
                '--overwrite', 'Replace files that differ',
                '--workers=', 'Transfers at once, 1 to 256',
                '+--run=list+runs', 'Run ids, recovery ids, Studio URLs, or latest',
                '--experiment=experiments', 'The newest runs of an experiment',
                '--num_runs=choice:all', 'How many of them, or all',
                '+--tags=', 'Only those with these tags',
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled', 'Only those in these states: Queued, Running, Completed, Failed, Canceled',
                '--latest_run_file=files', 'The run that this file names',
                '--children', 'The children of those runs instead',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('runs+files')
        }
        'himl checkpoint push' = @{
            Verbs = @(
            )
            Rows = @(
                '--from=runs', 'The run that they come from.  [required]',
                '--experiment=experiments', 'Its experiment (default: that of --from)',
                '--display_name=', 'Its name for people',
                '+--tag=', 'A tag of it',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('files...')
        }
        'himl checkpoint url' = @{
            Verbs = @(
            )
            Rows = @(
                '--select=choice:last,best', 'Which one of a run; N as in the file''s name (Lightning''s begin with 0)',
                '--metric=', 'The best by this metric, in the files'' names or as logged',
                '--goal=choice:minimize,maximize', 'What is best; without it, told by well-known names of metrics',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--expiry_days=', 'How long the link is good, up to 365; 0.5 is half a day',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('runs+files')
        }
        'himl datastore' = @{
            Verbs = @(
                'upload', 'Upload a folder''s contents, or a file',
                'download', 'Download files, checked by MD5',
                'list', 'List files with their sizes'
            )
            Rows = @(
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl datastore upload' = @{
            Verbs = @(
            )
            Rows = @(
                '+--include=', 'Only names that match, e.g. ''*.ckpt''',
                '+--exclude=', 'No names that match, e.g. ''tmp/**''',
                '--overwrite', 'Replace files that differ',
                '--no_validate', 'Do not check MD5s',
                '--workers=', 'Transfers at once, 1 to 256',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--datastore=', 'Which one (default: the workspace''s default one)',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('files', 'text')
        }
        'himl datastore download' = @{
            Verbs = @(
            )
            Rows = @(
                '+--include=', 'Only names that match, e.g. ''*.ckpt''',
                '+--exclude=', 'No names that match, e.g. ''tmp/**''',
                '--overwrite', 'Replace files that differ',
                '--no_validate', 'Do not check MD5s',
                '--workers=', 'Transfers at once, 1 to 256',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--datastore=', 'Which one (default: the workspace''s default one)',
                '--strip_prefix', 'Drop the folders of the prefix from the names',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('text', 'folders')
        }
        'himl datastore list' = @{
            Verbs = @(
            )
            Rows = @(
                '+--include=', 'Only names that match, e.g. ''*.ckpt''',
                '+--exclude=', 'No names that match, e.g. ''tmp/**''',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--datastore=', 'Which one (default: the workspace''s default one)',
                '--null', 'Names alone, each ended by a null character, for xargs -0',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('text')
        }
        'himl montage' = @{
            Verbs = @(
            )
            Rows = @(
                '--dataset=folders+files:.csv', 'DATASET, as an option',
                '--image_glob=', 'Files of the folder, e.g. ''**/*.tiff'' (default: all slides)',
                '--include_by_slide_id=files', 'Only the ids in this file: text or CSV',
                '--exclude_by_slide_id=files', 'All but the ids in this file',
                '--datastore=', 'The folder or CSV lies in this datastore',
                '--width=', 'Its width, without hi-ml''s lines (default: as the slides need; for hi-ml''s layout 60000)',
                '--level=choice:auto', 'The slides'' level, 0 the finest; auto: by the cells',
                '--layout=choice:fit,hi-ml', 'fit keeps the slides'' shapes, hi-ml stretches them',
                '+--image_format=list+choice:png,jpg,dzi', 'png, jpg, dzi (a zoomable page)',
                '--output_path=folders', 'The folder it goes to',
                '--backend=choice:auto,tifffile,openslide,cucim', 'auto, tifffile, openslide or cucim: what reads slides',
                '--workers=', 'Threads, 1 to 256 (default: one a core)',
                '--strict', 'Exit with 1 if a slide could not be read',
                '--cluster=choice:local', 'Azure ML compute; absent or ''local'': here',
                '+--conda_env=list+files:.yml,.yaml', 'Conda files of its environment',
                '--private_wheel=files:.whl', 'A wheel of himl to install there',
                '--shm_size=', 'Shared memory (default: 100g)',
                '--experiment=experiments', 'The experiment (default: the command''s name)',
                '--display_name=', 'What Studio calls it',
                '--wait', 'Wait for the job''s end',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('folders+files:.csv')
        }
        'himl tiles' = @{
            Verbs = @(
            )
            Rows = @(
                '--image_glob=', 'Files of the folder, e.g. ''**/*.tiff'' (default: all slides)',
                '--include_by_slide_id=files', 'Only the ids in this file: text or CSV',
                '--exclude_by_slide_id=files', 'All but the ids in this file',
                '--datastore=', 'The folder or CSV lies in this datastore',
                '--tile_size=', 'Width and height of a tile, in pixels of the level',
                '--overlap=', 'Pixels that a tile shares with the next one',
                '--level=choice:auto', 'The slides'' level, 0 the finest',
                '--magnification=', 'The level of this magnification, within 5 %; a slide without one fails',
                '--occupancy=', 'The least share of a tile that is foreground, from 0 to 1; 0: all tiles',
                '--masks', 'Foreground is where the slide''s mask is not 0 (default: what is dark, by Otsu''s threshold)',
                '--image_format=choice:png,jpg', 'png or jpg',
                '--overview', 'A picture of each slide with its tiles marked',
                '--output_path=folders', 'The folder they go to',
                '--backend=choice:auto,tifffile,openslide,cucim', 'auto, tifffile, openslide or cucim: what reads slides',
                '--workers=', 'Threads, 1 to 256 (default: one a core)',
                '--strict', 'Exit with 1 if a slide could not be read',
                '--cluster=choice:local', 'Azure ML compute; absent or ''local'': here',
                '+--conda_env=list+files:.yml,.yaml', 'Conda files of its environment',
                '--private_wheel=files:.whl', 'A wheel of himl to install there',
                '--shm_size=', 'Shared memory (default: 100g)',
                '--experiment=experiments', 'The experiment (default: the command''s name)',
                '--display_name=', 'What Studio calls it',
                '--wait', 'Wait for the job''s end',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('folders+files:.csv')
        }
        'himl dsa' = @{
            Verbs = @(
                'upload', 'Upload attention maps and other annotations to slides',
                'list', 'List collections, the folders and items in one, or the annotations of an item'
            )
            Rows = @(
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl dsa upload' = @{
            Verbs = @(
            )
            Rows = @(
                '--run=list+runs', 'The run that FILE is of',
                '--id_filter=', 'Only slides with this in their id',
                '--kind=choice:rectangles,heatmap', 'How a CSV is drawn: rectangles or heatmap',
                '--value=', 'The CSV''s column of values',
                '--no_rescale', 'Colours from 0 to 1, not from a slide''s least value to its greatest',
                '--name=', 'The annotation''s name (default: that of FILE, or the run''s id and name)',
                '--url=', 'The archive''s address (default: the variable DSA_URL); the API key is in DSA_API_KEY',
                '--folder=', 'Look for slides in this folder only',
                '--item=', 'The item''s name or id, in place of the slide''s id',
                '--overwrite', 'Replace an annotation of that name that differs',
                '--dry_run', 'Print the annotations as JSON, and send nothing',
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('files:.csv,.geojson,.json')
        }
        'himl dsa list' = @{
            Verbs = @(
            )
            Rows = @(
                '--url=', 'The archive''s address (default: the variable DSA_URL); the API key is in DSA_API_KEY',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('text')
        }
        'himl init' = @{
            Verbs = @(
            )
            Rows = @(
                '--from=files', 'Settings to take over (see above)',
                '--subscription_id=', 'Its subscription',
                '--resource_group=', 'Its resource group',
                '--workspace_name=', 'Its name',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--local', 'Make a local workspace, .himl, in this folder',
                '--slurm', 'Write what Slurm offers here to himl.toml',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl workspace' = @{
            Verbs = @(
                'show', 'Show which workspaces are meant, and where that was read'
            )
            Rows = @(
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl workspace show' = @{
            Verbs = @(
            )
            Rows = @(
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl doctor' = @{
            Verbs = @(
            )
            Rows = @(
                '--workspace|-w=choice:local+folders+files:.json', 'local, a .himl folder, or an Azure config.json',
                '--config_file=files:.json', 'An Azure config.json',
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--slurm=', 'Send a job of seconds to this NAME of --cluster slurm:NAME as well',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl completion' = @{
            Verbs = @(
            )
            Rows = @(
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--install', 'Put the script where the shell finds it',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('choice:bash,zsh,fish,powershell')
        }
        'himl skill' = @{
            Verbs = @(
            )
            Rows = @(
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--install', 'Write it to the folders where agents look in this project',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @()
        }
        'himl schema' = @{
            Verbs = @(
            )
            Rows = @(
                '--format=choice:human,json,quiet', 'human, json or quiet',
                '--json', 'One JSON document on stdout',
                '--quiet|-q', 'Ids or paths alone on stdout',
                '--verbose|-v', 'Debug log and tracebacks on stderr',
                '--yes', 'Never ask; take yes for the answer',
                '--help|-h', 'Show this message and exit'
            )
            Kinds = @('text...')
        }
    }
    # hi-ml's names of options, with today's.
    $today = @{
        '--compute_cluster_name' = '--cluster'
        '--config_path' = '--config_file'
        '--crossval_count' = '--crossval'
        '--docker_shm_size' = '--shm_size'
        '--dsa_url' = '--url'
        '--experiment_name' = '--experiment'
        '--files_to_download' = '--prefix'
        '--image_glob_pattern' = '--image_glob'
        '--parallel' = '--workers'
        '--run_id' = '--run'
        '--run_ids' = '--run'
        '--run_recovery_ids' = '--run'
        '--wait_for_completion' = '--wait'
        '--workspace_config' = '--config_file'
        '--workspace_config_path' = '--config_file'
    }

    function Get-PlainText($element) {
        if ($element -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $element.Value } else { $element.Extent.Text }
    }

    # The row of an option in any spelling, or nothing.
    function Find-Row($rows, [string] $word) {
        $name = ($word -split '=', 2)[0]
        if ($name -like '--*') { $name = '--' + $name.Substring(2).Replace('-', '_') }
        elseif ($name.Length -gt 2) { $name = $name.Substring(0, 2) }
        if ($today.ContainsKey($name)) { $name = $today[$name] }
        for ($i = 0; $i -lt $rows.Count; $i += 2) {
            $names = ($rows[$i].TrimStart('+') -split '=', 2)[0] -split '\|'
            if ($names -ccontains $name) { return $rows[$i] }
        }
    }

    function New-Result([string] $text, [string] $kind, [string] $help) {
        if (-not $help) { $help = $text }
        [System.Management.Automation.CompletionResult]::new($text, $text, $kind, $help)
    }

    # Values of a kind that begin so; files are left to PowerShell, which offers them where nothing else is offered.
    function Get-Values([string] $kind, [string] $begun, [string] $head) {
        $comma = $begun.LastIndexOf(',')
        if ($kind -like 'list+*' -and $comma -ge 0) {
            $head += $begun.Substring(0, $comma + 1)
            $begun = $begun.Substring($comma + 1)
        }
        foreach ($part in $kind -split '\+') {
            $values = @()
            if ($part -like 'choice:*') { $values = $part.Substring(7) -split ',' }
            if ($part -eq 'runs' -or $part -eq 'experiments') {
                $values = @(& $words[0] '--complete' "$part=$begun" @words $wordToComplete 2>$null)
            }
            foreach ($value in $values) {
                if ($value.StartsWith($begun, [System.StringComparison]::OrdinalIgnoreCase)) { New-Result "$head$value" 'ParameterValue' $value }
            }
        }
    }

    # The options that begin so, less those that were given and do not repeat.
    function Get-Options($rows, $used, [string] $begun) {
        if ($begun -like '--*') { $begun = '--' + $begun.Substring(2).Replace('-', '_') }
        for ($i = 0; $i -lt $rows.Count; $i += 2) {
            if ($rows[$i] -notlike '+*' -and $used -ccontains $rows[$i]) { continue }
            foreach ($name in ($rows[$i].TrimStart('+') -split '=', 2)[0] -split '\|') {
                if ($name.StartsWith($begun, [System.StringComparison]::Ordinal)) { New-Result $name 'ParameterName' $rows[$i + 1] }
            }
        }
    }

    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } | ForEach-Object { Get-PlainText $_ })
    $where = 'himl'
    $used = @()
    $pending = $null
    $place = 0
    foreach ($word in $words | Select-Object -Skip 1) {
        if ($pending) { $pending = $null }
        elseif ($word -eq '--') { return }
        elseif ($word -like '-?*') {
            $row = Find-Row $table[$where].Rows $word
            $used += $row
            if ($row -and $row.Contains('=') -and $word -notmatch '^--.*=|^-[^-].') { $pending = $row }
        }
        elseif ($table[$where].Verbs.Count) {
            $where = "$where $word"
            if (-not $table.ContainsKey($where)) { return }
        }
        else { $place += 1 }
    }

    $node = $table[$where]
    if ($pending) { Get-Values ($pending -split '=', 2)[1] $wordToComplete '' }
    elseif ($wordToComplete -match '^--.*=') {
        $row = Find-Row $node.Rows $wordToComplete
        $parts = $wordToComplete -split '=', 2
        if ($row -and $row.Contains('=')) { Get-Values ($row -split '=', 2)[1] $parts[1] "$($parts[0])=" }
    }
    elseif ($wordToComplete -like '-*') { Get-Options $node.Rows $used $wordToComplete }
    elseif ($node.Verbs.Count) {
        for ($i = 0; $i -lt $node.Verbs.Count; $i += 2) {
            if ($node.Verbs[$i].StartsWith($wordToComplete, [System.StringComparison]::Ordinal)) { New-Result $node.Verbs[$i] 'ParameterValue' $node.Verbs[$i + 1] }
        }
    }
    else {
        $due = $null
        if ($place -lt $node.Kinds.Count) { $due = $node.Kinds[$place] }
        elseif ($node.Kinds.Count -and $node.Kinds[-1] -like '*...') { $due = $node.Kinds[-1] }
        if ($due) { Get-Values ($due -replace '\.\.\.$', '') $wordToComplete '' }
        elseif (-not $wordToComplete) { Get-Options $node.Rows $used '' }
    }
}
