#!/bin/sh
# Installs Chromium for the tests of the pages, unless there is one. Says how where it cannot.
for name in chromium chromium-browser google-chrome chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
if test -n "$CHROMIUM"; then exit 0; fi
if command -v apt-get > /dev/null; then
    if test "$(id -u)" = 0; then sudo=; else sudo="sudo -n"; fi
    { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends chromium; } \
        > /dev/null 2>&1 < /dev/null && command -v chromium > /dev/null && exit 0
fi
echo "There is no Chromium, and apt-get could not install it. Install Chromium or Chrome, or set" >&2
echo "CHROMIUM to the path of one; on macOS: brew install --cask chromium." >&2
exit 1
