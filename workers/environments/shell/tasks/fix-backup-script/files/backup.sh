#!/bin/bash
# backup.sh SOURCE TARGET [KEEP]: copies a folder, keeps the newest KEEP copies (3 unless given).

SOURCE=$1
TARGET=$2
KEEP=$3

if [ $SOURCE = "" -o $TARGET = "" ]; then
    echo usage: backup.sh SOURCE TARGET [KEEP]
fi

cd $TARGET
NUMBER=$(ls | tail -1)
NUMBER=$((NUMBER + 1))
mkdir $NUMBER
cp $SOURCE/* $NUMBER

for OLD in $(ls | head -n -$KEEP); do
    rm -r $OLD
done
echo $NUMBER
