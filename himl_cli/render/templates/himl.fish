# Tab completion of himl in fish 3.1 and later, printed by `himl completion fish`.
# himl generates the tables. The functions after them do not depend on them.

function __himl_verbs --description 'The commands below the command $argv[1], with their help'
    switch $argv[1]
@VERBS@
    end
end

function __himl_rows --description 'The options of the command $argv[1], with their help'
    switch $argv[1]
@ROWS@
    end
end

function __himl_kinds --description 'What the plain arguments of the command $argv[1] are'
    switch $argv[1]
@KINDS@
    end
end

function __himl_today --description 'The option $argv[1], which may have one of hi-ml\'s names, by today\'s'
    switch $argv[1]
@OLD_NAMES@
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
            case runs experiments clusters machines
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
        else if string match -q -r -- '^-.' $word
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
