# Tab completion of himl in PowerShell 5.1 and later, printed by `himl completion powershell`.
# himl generates the table. The code after it does not depend on it.

Register-ArgumentCompleter -Native -CommandName 'himl', 'himl.exe' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    # The subcommands and options of each command, with their help, and the kinds of its arguments.
    $table = @{
@TABLE@
    }
    # hi-ml's names of options, with the current names.
    $today = @{
@OLD_NAMES@
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

    # Matching values of a kind. PowerShell itself offers files if there are no other completions.
    function Get-Values([string] $kind, [string] $begun, [string] $head) {
        $comma = $begun.LastIndexOf(',')
        if ($kind -like 'list+*' -and $comma -ge 0) {
            $head += $begun.Substring(0, $comma + 1)
            $begun = $begun.Substring($comma + 1)
        }
        foreach ($part in $kind -split '\+') {
            $values = @()
            if ($part -like 'choice:*') { $values = $part.Substring(7) -split ',' }
            if ($part -in 'runs', 'experiments', 'clusters', 'machines') {
                $values = @(& $words[0] '--complete' "$part=$begun" @words $wordToComplete 2>$null)
            }
            foreach ($value in $values) {
                if ($value.StartsWith($begun, [System.StringComparison]::OrdinalIgnoreCase)) { New-Result "$head$value" 'ParameterValue' $value }
            }
        }
    }

    # The matching options, except for used ones that do not repeat.
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
