# Tab completion of himl in fish 3.1 and later, as `himl completion fish` prints it.
# The tables of himl are generated; the functions after them are the same for any tables.

function __himl_verbs --description 'The commands below the command $argv[1], with their help'
    switch $argv[1]
        case 'himl'
            printf '%s\t%s\n' \
                'submit' 'Run a script, a module or a shell script as a job' \
                'runs' 'List, show, follow, cancel, tag and delete runs' \
                'ui' 'Show runs in MLflow\'s user interface' \
                'tb' 'Show runs in TensorBoard, also while they go on' \
                'download' 'Download the files of runs, checked by MD5' \
                'checkpoint' 'Fetch checkpoints of runs, push changed ones, make links' \
                'datastore' 'Upload, download and list files of a datastore' \
                'montage' 'Show any number of slides in one picture' \
                'tiles' 'Cut slides into tiles, and list them in a CSV' \
                'dsa' 'Upload annotations of slides to a Digital Slide Archive' \
                'init' 'Set up this folder for an Azure ML workspace, or a local one' \
                'workspace' 'Show which workspace is meant, and what it is' \
                'doctor' 'Check what himl needs, and say what to do about it' \
                'completion' 'Tab completion of himl in bash, zsh, fish and PowerShell' \
                'skill' 'Print or install a skill file for coding agents' \
                'schema' 'Print the JSON Schema of what --json prints'
        case 'himl runs'
            printf '%s\t%s\n' \
                'list' 'List runs, newest first' \
                'show' 'Show one run in full: outcome, tags, metrics, texts, trials or steps' \
                'aggregate' 'Metrics of many runs side by side, with statistics' \
                'logs' 'Print the log of a run, also while it runs' \
                'attach' 'Show where a running job\'s services answer: VS Code, JupyterLab, TensorBoard, SSH' \
                'cancel' 'Stop runs' \
                'tag' 'Set tags on runs; KEY= removes one' \
                'archive' 'Leave runs out of lists, and keep them with all their files' \
                'restore' 'Bring archived runs back to lists' \
                'delete' 'Delete runs with all their files, and the runs below them; lists what goes and asks first'
        case 'himl checkpoint'
            printf '%s\t%s\n' \
                'fetch' 'Fetch a checkpoint, and print its path alone' \
                'push' 'Upload changed checkpoints to a new run, from which jobs start' \
                'url' 'Print a link by which anybody can read a checkpoint'
        case 'himl datastore'
            printf '%s\t%s\n' \
                'upload' 'Upload a folder\'s contents, or a file' \
                'download' 'Download files, checked by MD5' \
                'list' 'List files with their sizes'
        case 'himl dsa'
            printf '%s\t%s\n' \
                'upload' 'Upload attention maps and other annotations to slides' \
                'list' 'List collections, the folders and items in one, or the annotations of an item'
        case 'himl workspace'
            printf '%s\t%s\n' \
                'show' 'Show which workspaces are meant, and where that was read'
    end
end

function __himl_rows --description 'The options of the command $argv[1], with their help'
    switch $argv[1]
        case 'himl'
            printf '%s\t%s\n' \
                '--version' 'Show the version and exit' \
                '--help|-h' 'Show this message and exit'
        case 'himl submit'
            printf '%s\t%s\n' \
                '-m=' 'A module, as python -m takes it' \
                '--command=' 'A command line, of any program, in place of TARGET' \
                '--cluster=choice:local' 'Azure ML compute, or slurm:PARTITION; absent or \'local\': here' \
                '+--sbatch=' 'An option of sbatch on Slurm, as in gres=gpu:2' \
                '--retries=' 'Start a job here or on Slurm that failed again, so many times' \
                '--record_in=choice:local,azure' 'Where a job that runs here is recorded: local or azure' \
                '--in_place' 'Run here without a snapshot, for a debugger' \
                '--num_nodes=' 'Machines of the cluster' \
                '--processes_per_node=' 'Processes (ranks) a machine' \
                '--distribution=choice:pytorch,mpi' 'pytorch or mpi (default: pytorch for several processes a machine, else mpi)' \
                '--no_mpi_single_node' 'Send a job of one process as a plain one, not as MPI' \
                '--shm_size=' 'Shared memory on a cluster' \
                '--instance_type=' 'Instance type of a Kubernetes or serverless compute' \
                '--job_tier=choice:spot,basic,standard,premium' 'Of a serverless compute: spot (cheaper, may be preempted), basic, standard or premium' \
                '+--docker_args=' 'Arguments of \'docker run\' on a cluster' \
                '--identity=choice:user,managed' 'user or managed: as whom it signs in to Azure' \
                '--max_run_duration=' 'End the job after that time: 30s, 30m, 2h, 1.5d' \
                '--vscode' 'Let VS Code connect to the job on a cluster' \
                '--jupyter' 'Run JupyterLab beside the job on a cluster' \
                '--ssh_key=files' 'Let the owner of this public key sign in to the job by SSH' \
                '--create_cluster' 'Make a pipeline\'s cluster where it is missing (size: .env)' \
                '--python=files' 'The interpreter here (default: the active environment\'s)' \
                '--snapshot_root=folders' 'The folder that is sent (default: the project\'s)' \
                '+--ignored_folders=list+folders' 'Folders to leave out as well' \
                '+--include_secret=' 'Send these files, which may hold secrets, on purpose' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files (default: the nearest environment.yml, pylock.toml or uv.lock)' \
                '--requirements=files' 'A pip requirements file, in place of a conda file' \
                '--lock=files:.toml,.lock' 'A pylock.toml or uv.lock, in place of a conda file' \
                '--environment=' 'A registered environment, unchanged; also azureml://registries/...' \
                '--docker_image=' 'Docker image (default: one of Azure ML)' \
                '--build_context=folders' 'The folder to build the Docker image from' \
                '--dockerfile=files' 'The Dockerfile (default: the build context\'s Dockerfile)' \
                '--pip_extra_index_url=' 'One more index for pip' \
                '--private_wheel=files:.whl' 'A wheel to install as well' \
                '+--env_var=' 'A variable of the job' \
                '--experiment=experiments' 'Experiment (default: HIML_EXPERIMENT_NAME, else the script\'s name)' \
                '--experiment_from_branch' 'Name the experiment after the git branch' \
                '--display_name=' 'The run\'s name for people' \
                '--description=' 'What the run is about' \
                '+--tag=' 'A tag of the run' \
                '--build_branch=' 'Branch' \
                '--build_source_id=' 'Commit' \
                '--build_source_author=' 'Author of the commit' \
                '--build_source_message=' 'Message of the commit' \
                '--build_source_repository=' 'Repository' \
                '--build_number=' 'Number of the build' \
                '--build_user=' 'Who started the build' \
                '--build_user_email=' 'Their e-mail address' \
                '+--input=' 'Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]' \
                '+--output=' 'Data it writes: [KEY=]NAME[,OPTION=...]' \
                '+--keep=' 'Keep new files outside outputs/ and logs/ as well, as outputs, by globs as of \'himl download...' \
                '--no_system_metrics' 'Record no use of CPU, memory and GPUs of a job here or on Slurm' \
                '--default_datastore=' 'Datastore of inputs and outputs that name none' \
                '--checkpoint=runs+files' 'Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last...' \
                '+--sweep=' 'Values of --NAME: 0.1,0.01 or uniform(a,b), loguniform(a,b) (e^a to e^b), normal(mu,sigma)...' \
                '--sampling=choice:grid,random,bayesian' 'grid, random, random(seed=7) or bayesian (default: grid where all are lists, else random)' \
                '--max_trials=' 'Trials in all (default: the whole grid); random and bayesian need it' \
                '--max_concurrent=' 'Trials at a time (default: here 1, on a cluster all)' \
                '--primary_metric=' 'The metric that trials are compared by' \
                '--goal=choice:minimize,maximize' 'minimize or maximize the primary metric' \
                '--early_stop=choice:median' 'Stop poor trials: bandit(slack_factor=0.1), median, truncation(truncation_percentage=20)' \
                '--crossval=' 'Run N splits: --crossval_index 0 to N-1' \
                '--crossval_arg=' 'Another name for --crossval_index' \
                '--crossval_count_arg=' 'Pass N as well, by this argument' \
                '--different_seeds=' 'Run N seeds: --random_seed 0 to N-1' \
                '--seed_arg=' 'Another name for --random_seed' \
                '--resume=runs' 'Go on with a run that is kept here: do what is missing, or try again; needs no TARGET' \
                '--wait|--no_wait' 'Wait for the end (default: here yes, on a cluster no)' \
                '--follow' 'Wait, and show the output as it comes (always so here)' \
                '--notify=' 'Post how the run ended to this webhook; better set in himl.private.toml' \
                '--notify_format=choice:json,slack,teams' 'json, slack or teams (default: that of the URL\'s host, else json)' \
                '--dry_run' 'Print the job as Azure ML YAML, or for Slurm as batch script; send nothing' \
                '--show_settings' 'Show each option\'s value and where it came from; run nothing' \
                '--sdk=choice:v2,v1' 'v2, or v1: by the deprecated azureml-core' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs list'
            printf '%s\t%s\n' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--archived' 'Only those that were archived, which are left out otherwise' \
                '--watch' 'Show them until all have ended, with progress and last metrics' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs show'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--machine' 'A table of what it took of CPU, memory and GPUs, too' \
                '--watch' 'Show it until it has ended, with progress, last metrics and its log' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs aggregate'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--child_arg=' 'Name the columns by this tag or argument' \
                '+--metrics=' 'Only metrics of these names' \
                '--system' 'The machine\'s metrics, system/..., alone or beside --metrics' \
                '--no_stats' 'No mean, std, min, max and median' \
                '--output_csv=files' 'The table as CSV' \
                '--output_parquet=files' 'All points as Parquet, a row a point' \
                '--plot=files' 'Curves over all runs, .png or .svg' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs logs'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--follow' 'Go on until the run has ended' \
                '--file=' 'Another log than the main one, e.g. std_log_process_1.txt' \
                '--try=' 'Of a job that was tried again: the Nth try\'s log' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs attach'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--service=' 'One of them, by its name or kind: vscode, jupyterlab, ssh, ...' \
                '--node=' 'Those of another node; the first one is 0' \
                '--open' 'Open them in the browser' \
                '--ssh' 'Log in by ssh; what follows -- are its options and a command' \
                '--stdio' 'Be the ProxyCommand of an ssh, scp or rsync of your own' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs cancel'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs tag'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs archive'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs restore'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl runs delete'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--outputs' 'On Azure ML: the data that they registered as outputs, too' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl ui'
            printf '%s\t%s\n' \
                '--port=' 'Its port; the next free one if that is taken' \
                '--host=' 'Its host; any but localhost lets other machines in' \
                '--open' 'Open it in the browser' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl tb'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--log_dir=' 'Their folder inside a run; if it has none, all are taken' \
                '--run_logs_dir=folders' 'Where copies go' \
                '--refresh=' 'Time between looks for new runs and files' \
                '--sync_only' 'Fetch once, print where they are, and end' \
                '--port=' 'Its port; the next free one if that is taken' \
                '--host=' 'Its host; any but localhost lets other machines in' \
                '--open' 'Open it in the browser' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl download'
            printf '%s\t%s\n' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--prefix=' 'Only names that start so, or one file' \
                '--output_key=' 'The run\'s output dataset KEY, not its artifacts' \
                '--list' 'List the files, download nothing' \
                '+--include=' 'Only names that match, e.g. \'*.ckpt\'' \
                '+--exclude=' 'No names that match, e.g. \'tmp/**\'' \
                '--output_dir=folders' 'Files go to DIR/RUN_ID/NAME' \
                '--flat' 'Files go to DIR/NAME (one run only)' \
                '--strip_prefix' 'Drop the folders of the prefix from names' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not check MD5s' \
                '--workers=' 'Transfers at once, 1 to 256' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint fetch'
            printf '%s\t%s\n' \
                '--select=choice:last,best' 'Which one of a run; N as in the file\'s name (Lightning\'s begin with 0)' \
                '--metric=' 'The best by this metric, in the files\' names or as logged' \
                '--goal=choice:minimize,maximize' 'What is best; without it, told by well-known names of metrics' \
                '--output_dir=folders' 'The folder it goes to' \
                '--overwrite' 'Replace files that differ' \
                '--workers=' 'Transfers at once, 1 to 256' \
                '+--run=list+runs' 'Run ids, recovery ids, Studio URLs, or latest' \
                '--experiment=experiments' 'The newest runs of an experiment' \
                '--num_runs=choice:all' 'How many of them, or all' \
                '+--tags=' 'Only those with these tags' \
                '+--status=list+choice:Queued,Running,Completed,Failed,Canceled' 'Only those in these states: Queued, Running, Completed, Failed, Canceled' \
                '--latest_run_file=files' 'The run that this file names' \
                '--children' 'The children of those runs instead' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint push'
            printf '%s\t%s\n' \
                '--from=runs' 'The run that they come from.  [required]' \
                '--experiment=experiments' 'Its experiment (default: that of --from)' \
                '--display_name=' 'Its name for people' \
                '+--tag=' 'A tag of it' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl checkpoint url'
            printf '%s\t%s\n' \
                '--select=choice:last,best' 'Which one of a run; N as in the file\'s name (Lightning\'s begin with 0)' \
                '--metric=' 'The best by this metric, in the files\' names or as logged' \
                '--goal=choice:minimize,maximize' 'What is best; without it, told by well-known names of metrics' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--expiry_days=' 'How long the link is good, up to 365; 0.5 is half a day' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore upload'
            printf '%s\t%s\n' \
                '+--include=' 'Only names that match, e.g. \'*.ckpt\'' \
                '+--exclude=' 'No names that match, e.g. \'tmp/**\'' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not check MD5s' \
                '--workers=' 'Transfers at once, 1 to 256' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--datastore=' 'Which one (default: the workspace\'s default one)' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore download'
            printf '%s\t%s\n' \
                '+--include=' 'Only names that match, e.g. \'*.ckpt\'' \
                '+--exclude=' 'No names that match, e.g. \'tmp/**\'' \
                '--overwrite' 'Replace files that differ' \
                '--no_validate' 'Do not check MD5s' \
                '--workers=' 'Transfers at once, 1 to 256' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--datastore=' 'Which one (default: the workspace\'s default one)' \
                '--strip_prefix' 'Drop the folders of the prefix from the names' \
                '--help|-h' 'Show this message and exit'
        case 'himl datastore list'
            printf '%s\t%s\n' \
                '+--include=' 'Only names that match, e.g. \'*.ckpt\'' \
                '+--exclude=' 'No names that match, e.g. \'tmp/**\'' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--datastore=' 'Which one (default: the workspace\'s default one)' \
                '--null' 'Names alone, each ended by a null character, for xargs -0' \
                '--help|-h' 'Show this message and exit'
        case 'himl montage'
            printf '%s\t%s\n' \
                '--dataset=folders+files:.csv' 'DATASET, as an option' \
                '--image_glob=' 'Files of the folder, e.g. \'**/*.tiff\' (default: all slides)' \
                '--include_by_slide_id=files' 'Only the ids in this file: text or CSV' \
                '--exclude_by_slide_id=files' 'All but the ids in this file' \
                '--datastore=' 'The folder or CSV lies in this datastore' \
                '--width=' 'Its width, without hi-ml\'s lines (default: as the slides need; for hi-ml\'s layout 60000)' \
                '--level=choice:auto' 'The slides\' level, 0 the finest; auto: by the cells' \
                '--layout=choice:fit,hi-ml' 'fit keeps the slides\' shapes, hi-ml stretches them' \
                '+--image_format=list+choice:png,jpg,dzi' 'png, jpg, dzi (a zoomable page)' \
                '--output_path=folders' 'The folder it goes to' \
                '--backend=choice:auto,tifffile,openslide,cucim' 'auto, tifffile, openslide or cucim: what reads slides' \
                '--workers=' 'Threads, 1 to 256 (default: one a core)' \
                '--strict' 'Exit with 1 if a slide could not be read' \
                '--cluster=choice:local' 'Azure ML compute; absent or \'local\': here' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files of its environment' \
                '--private_wheel=files:.whl' 'A wheel of himl to install there' \
                '--shm_size=' 'Shared memory (default: 100g)' \
                '--experiment=experiments' 'The experiment (default: the command\'s name)' \
                '--display_name=' 'What Studio calls it' \
                '--wait' 'Wait for the job\'s end' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl tiles'
            printf '%s\t%s\n' \
                '--image_glob=' 'Files of the folder, e.g. \'**/*.tiff\' (default: all slides)' \
                '--include_by_slide_id=files' 'Only the ids in this file: text or CSV' \
                '--exclude_by_slide_id=files' 'All but the ids in this file' \
                '--datastore=' 'The folder or CSV lies in this datastore' \
                '--tile_size=' 'Width and height of a tile, in pixels of the level' \
                '--overlap=' 'Pixels that a tile shares with the next one' \
                '--level=choice:auto' 'The slides\' level, 0 the finest' \
                '--magnification=' 'The level of this magnification, within 5 %; a slide without one fails' \
                '--occupancy=' 'The least share of a tile that is foreground, from 0 to 1; 0: all tiles' \
                '--masks' 'Foreground is where the slide\'s mask is not 0 (default: what is dark, by Otsu\'s threshold)' \
                '--image_format=choice:png,jpg' 'png or jpg' \
                '--overview' 'A picture of each slide with its tiles marked' \
                '--output_path=folders' 'The folder they go to' \
                '--backend=choice:auto,tifffile,openslide,cucim' 'auto, tifffile, openslide or cucim: what reads slides' \
                '--workers=' 'Threads, 1 to 256 (default: one a core)' \
                '--strict' 'Exit with 1 if a slide could not be read' \
                '--cluster=choice:local' 'Azure ML compute; absent or \'local\': here' \
                '+--conda_env=list+files:.yml,.yaml' 'Conda files of its environment' \
                '--private_wheel=files:.whl' 'A wheel of himl to install there' \
                '--shm_size=' 'Shared memory (default: 100g)' \
                '--experiment=experiments' 'The experiment (default: the command\'s name)' \
                '--display_name=' 'What Studio calls it' \
                '--wait' 'Wait for the job\'s end' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa upload'
            printf '%s\t%s\n' \
                '--run=list+runs' 'The run that FILE is of' \
                '--id_filter=' 'Only slides with this in their id' \
                '--kind=choice:rectangles,heatmap' 'How a CSV is drawn: rectangles or heatmap' \
                '--value=' 'The CSV\'s column of values' \
                '--no_rescale' 'Colours from 0 to 1, not from a slide\'s least value to its greatest' \
                '--name=' 'The annotation\'s name (default: that of FILE, or the run\'s id and name)' \
                '--url=' 'The archive\'s address (default: the variable DSA_URL); the API key is in DSA_API_KEY' \
                '--folder=' 'Look for slides in this folder only' \
                '--item=' 'The item\'s name or id, in place of the slide\'s id' \
                '--overwrite' 'Replace an annotation of that name that differs' \
                '--dry_run' 'Print the annotations as JSON, and send nothing' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl dsa list'
            printf '%s\t%s\n' \
                '--url=' 'The archive\'s address (default: the variable DSA_URL); the API key is in DSA_API_KEY' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl init'
            printf '%s\t%s\n' \
                '--from=files' 'Settings to take over (see above)' \
                '--subscription_id=' 'Its subscription' \
                '--resource_group=' 'Its resource group' \
                '--workspace_name=' 'Its name' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--local' 'Make a local workspace, .himl, in this folder' \
                '--slurm' 'Write what Slurm offers here to himl.toml' \
                '--help|-h' 'Show this message and exit'
        case 'himl workspace'
            printf '%s\t%s\n' \
                '--help|-h' 'Show this message and exit'
        case 'himl workspace show'
            printf '%s\t%s\n' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
        case 'himl doctor'
            printf '%s\t%s\n' \
                '--workspace|-w=choice:local+folders+files:.json' 'local, a .himl folder, or an Azure config.json' \
                '--config_file=files:.json' 'An Azure config.json' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--slurm=' 'Send a job of seconds to this NAME of --cluster slurm:NAME as well' \
                '--help|-h' 'Show this message and exit'
        case 'himl completion'
            printf '%s\t%s\n' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--install' 'Put the script where the shell finds it' \
                '--help|-h' 'Show this message and exit'
        case 'himl skill'
            printf '%s\t%s\n' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--install' 'Write it to the folders where agents look in this project' \
                '--help|-h' 'Show this message and exit'
        case 'himl schema'
            printf '%s\t%s\n' \
                '--format=choice:human,json,quiet' 'human, json or quiet' \
                '--json' 'One JSON document on stdout' \
                '--quiet|-q' 'Ids or paths alone on stdout' \
                '--verbose|-v' 'Debug log and tracebacks on stderr' \
                '--yes' 'Never ask; take yes for the answer' \
                '--help|-h' 'Show this message and exit'
    end
end

function __himl_kinds --description 'What the plain arguments of the command $argv[1] are'
    switch $argv[1]
        case 'himl submit'
            printf '%s\n' \
                'files:.py,.sh,.yml,.yaml,.json'
        case 'himl runs show'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs aggregate'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs logs'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs attach'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs cancel'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs tag'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs archive'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs restore'
            printf '%s\n' \
                'list+runs...'
        case 'himl runs delete'
            printf '%s\n' \
                'list+runs...'
        case 'himl tb'
            printf '%s\n' \
                'list+runs...'
        case 'himl download'
            printf '%s\n' \
                'list+runs...'
        case 'himl checkpoint fetch'
            printf '%s\n' \
                'runs+files'
        case 'himl checkpoint push'
            printf '%s\n' \
                'files...'
        case 'himl checkpoint url'
            printf '%s\n' \
                'runs+files'
        case 'himl datastore upload'
            printf '%s\n' \
                'files' \
                'text'
        case 'himl datastore download'
            printf '%s\n' \
                'text' \
                'folders'
        case 'himl datastore list'
            printf '%s\n' \
                'text'
        case 'himl montage'
            printf '%s\n' \
                'folders+files:.csv'
        case 'himl tiles'
            printf '%s\n' \
                'folders+files:.csv'
        case 'himl dsa upload'
            printf '%s\n' \
                'files:.csv,.geojson,.json'
        case 'himl dsa list'
            printf '%s\n' \
                'text'
        case 'himl completion'
            printf '%s\n' \
                'choice:bash,zsh,fish,powershell'
        case 'himl schema'
            printf '%s\n' \
                'text...'
    end
end

function __himl_today --description 'The option $argv[1], which may have one of hi-ml\'s names, by today\'s'
    switch $argv[1]
        case --compute_cluster_name
            echo -- --cluster
        case --config_path
            echo -- --config_file
        case --crossval_count
            echo -- --crossval
        case --docker_shm_size
            echo -- --shm_size
        case --dsa_url
            echo -- --url
        case --experiment_name
            echo -- --experiment
        case --files_to_download
            echo -- --prefix
        case --image_glob_pattern
            echo -- --image_glob
        case --parallel
            echo -- --workers
        case --run_id
            echo -- --run
        case --run_ids
            echo -- --run
        case --run_recovery_ids
            echo -- --run
        case --wait_for_completion
            echo -- --wait
        case --workspace_config
            echo -- --config_file
        case --workspace_config_path
            echo -- --config_file
        case '*'
            echo -- $argv[1]
    end
end

function __himl_find --argument-names where word --description 'The row of an option in any spelling, or nothing'
    set -l name (string replace -r '=.*' '' -- $word)
    if string match -q -- '--*' $name
        set name (string replace -a -- - _ (string sub -s 3 -- $name))
        set name (__himl_today "--$name")
    else
        set name (string sub -l 2 -- $name)
    end
    set name (string escape --style=regex -- $name)
    __himl_rows $where | string match -r -- '^\+?(?:[^=\t]*\|)?'$name'(?:\|[^=\t]*)?(?:=[^\t]*)?(?=\t)'
end

function __himl_paths --argument-names head begun suffixes --description 'Folders and files whose ends match'
    for line in (complete -C "'' $begun")
        set -l path (string split -m 1 \t -- $line)[1]
        if string match -q -r -- $suffixes $path
            echo -- $head$path
        end
    end
end

function __himl_value --argument-names kind begun head --description 'Values of a kind; the words of the line follow'
    set -l words $argv[4..-1]
    if string match -q 'list+*' -- $kind; and string match -q '*,*' -- $begun
        set head $head(string replace -r '[^,]*$' '' -- $begun)
        set begun (string replace -r '^.*,' '' -- $begun)
    end
    for part in (string split + -- $kind)
        switch $part
            case 'choice:*'
                for each in (string split , -- (string replace choice: '' -- $part))
                    echo -- $head$each
                end
            case runs experiments
                set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
                for each in (command $program --complete "$part="(string unescape -- $begun) $words 2>/dev/null </dev/null)
                    echo -- $head$each
                end
            case folders
                __himl_paths $head $begun '/$'
            case 'files:*'
                set -l suffixes (string replace -a , '|' -- (string escape --style=regex -- (string replace files: '' -- $part)))
                __himl_paths $head $begun "(/|$suffixes)\$"
            case files
                __himl_paths $head $begun ''
        end
    end
end

function __himl_options --argument-names where current --description 'Options in the spelling typed, less those given that do not repeat'
    set -l used $argv[3..-1]
    set -l begun '^'(string escape --style=regex -- "$current")
    for line in (__himl_rows $where)
        set -l pair (string split -m 1 \t -- $line)
        if not string match -q '+*' -- $pair[1]; and contains -- $pair[1] $used
            continue
        end
        for name in (string split '|' -- (string replace -r '=.*' '' -- (string replace -r '^\+' '' -- $pair[1])))
            if string match -q -r -- '^--[^-]*-' $current; and string match -q -- '--*' $name
                set name --(string replace -a -- _ - (string sub -s 3 -- $name))
            end
            if string match -q -r -- $begun $name
                echo -- $name\t$pair[2]
            end
        end
    end
end

function __himl_complete --description 'What may stand at the cursor'
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l where himl
    set -l verbs (__himl_verbs $where)
    set -l used
    set -l pending
    set -l place 1
    for word in $words[2..-1]
        if set -q pending[1]
            set pending
        else if test "$word" = --
            __himl_value files "$current" '' $words "$current"
            return
        else if string match -q -- '-?*' $word
            set -l row (__himl_find $where $word)
            set used $used $row
            if string match -q -- '*=*' $row; and not string match -q -r -- '^--.*=|^-[^-].' $word
                set pending $row
            end
        else if set -q verbs[1]
            set where "$where $word"
            set verbs (__himl_verbs $where)
        else
            set place (math $place + 1)
        end
    end
    if set -q pending[1]
        __himl_value (string replace -r '^[^=]*=' '' -- $pending) "$current" '' $words "$current"
    else if string match -q -- '--*=*' $current
        set -l row (__himl_find $where $current)
        set -l parts (string split -m 1 = -- $current)
        if string match -q -- '*=*' $row
            __himl_value (string replace -r '^[^=]*=' '' -- $row) "$parts[2]" "$parts[1]=" $words "$current"
        end
    else if string match -q -- '-*' $current
        __himl_options $where $current $used
    else if set -q verbs[1]
        printf '%s\n' $verbs
    else
        set -l kinds (__himl_kinds $where)
        set -l due $kinds[$place]
        if not set -q due[1]; and string match -q -- '*...' $kinds[-1]
            set due $kinds[-1]
        end
        if set -q due[1]
            __himl_value (string replace -r '\.\.\.$' '' -- $due) "$current" '' $words "$current"
        else if test -z "$current"
            __himl_options $where '' $used
        end
    end
end

complete -c himl -e
complete -c himl -k -f -a '(__himl_complete)'
