himl runs export latest --to run.zip -q
himl runs delete "$(himl runs list -q | head -1)" --yes
