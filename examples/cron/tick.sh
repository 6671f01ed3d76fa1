#!/bin/sh
# Live tests from cron: no process stays alive between two ticks.
#
#     */15 * * * *  EVORANK_HOME=/srv/evorank /srv/evorank/tick.sh films mail -s evorank ranking@example.com
#
# tick.sh SURFACE [COMMAND ...]: does what is due on the surface. What somebody must look at - an approval that
# is waited for, an error that the next tick will not mend by itself - goes to COMMAND's standard input, or to
# standard output, which cron mails. Everything else is silent. A tick that comes late, twice, or while another
# one runs does no harm, so nothing has to be locked here.
set -u
surface=$1
shift

said=$(${EVORANK:-evorank} online tick --surface "$surface" --days 0 2>&1)
code=$?
case $code in
    0) exit 0 ;;
    4) said="$said
Something waits for you: evorank online status --surface $surface" ;;
esac
if [ $# -gt 0 ]; then
    printf '%s\n' "$said" | "$@"
else
    printf '%s\n' "$said"
fi
exit "$code"
