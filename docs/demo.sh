#!/usr/bin/env bash
# Brings a dozen branches to one revision in a scratch folder. `make demo` runs it.
set -euo pipefail

bold='' plain=''
if [ -t 1 ]; then
    bold=$'\033[1m' plain=$'\033[0m'
fi

run() {
    printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
    "$@"
}

# Settings of somebody's real fleet must not reach this one.
for name in "${!BRANCHMIG_@}"; do
    unset "$name"
done

folder=$(mktemp -d "${TMPDIR:-/tmp}/branchmig-demo.XXXXXX")
cd "$folder"
echo "The scratch folder is $folder"

# Named, because root never takes the settings of the current folder.
export BRANCHMIG_CONFIG="$folder/branchmig.toml"

cat >branches.csv <<'CSV'
code,name,url,provider,tags
BR001,Harbour Street,sqlite:///branches/br001.db,sqlite,north;pilot
BR002,Old Market,sqlite:///branches/br002.db,sqlite,north
BR003,Station Square,sqlite:///branches/br003.db,sqlite,north
BR004,Mill Lane,sqlite:///branches/br004.db,sqlite,north
BR005,Castle Hill,sqlite:///branches/br005.db,sqlite,east;pilot
BR006,Riverside,sqlite:///branches/br006.db,sqlite,east
BR007,Brewery Yard,sqlite:///branches/br007.db,sqlite,east
BR008,Orchard Road,sqlite:///branches/br008.db,sqlite,east
BR009,Lighthouse Point,sqlite:///branches/br009.db,sqlite,south;pilot
BR010,Canal Bridge,sqlite:///branches/br010.db,sqlite,south
BR011,Quarry Park,sqlite:///branches/br011.db,sqlite,south
BR012,University,sqlite:///branches/br012.db,sqlite,south
CSV

run branchmig init
run branchmig branch import branches.csv
run branchmig apply-all
run branchmig status

cat <<END

Twelve branches stand at one revision. To go on with them:

  cd $folder
  export PATH="$(dirname "$(command -v branchmig)"):\$PATH"
  export BRANCHMIG_CONFIG="$BRANCHMIG_CONFIG"

  branchmig history BR001               # what was applied, read from the branch itself
  branchmig validate                    # every branch looked at, its tables included
  branchmig apply-all                   # nothing to do: one version read a branch
  branchmig status --tag pilot --json   # the same for a program to read
  rm branches/br012.db
  branchmig apply BR012                 # refused: it had a schema and has vanished
  branchmig apply BR012 --create        # a person says that it may be made anew

  rm -r $folder   # when you have seen enough
END
