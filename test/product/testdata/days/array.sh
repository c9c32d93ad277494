# A day with an array: 120 frames of a film. Some fail at first, and the film follows when all are there.
mkdir frames
cat >frame.sh <<'END'
#!/bin/sh
#LEAT --name frames
#LEAT --array 1-120
if [ $((TASK_INDEX % 40)) = 13 ] && ! [ -e textures ]; then
  echo "frame $TASK_INDEX: no textures"
  exit 3
fi
echo "frame $TASK_INDEX" >"frames/$TASK_INDEX"
echo "rendered frame $TASK_INDEX"
END

# The film is made when all frames are there. Nothing waits at the keyboard for that.
leat run --workdir "$PWD" frame.sh
leat run --name film --workdir "$PWD" --array 1 --after frames -- sh -c 'cat frames/* | wc -l'

# Three frames fail. The set says which and why, and the film does not start.
fails leat wait frames 2>errors
grep -q '117 of 120 succeeded' errors
leat explain frames | tee why
grep -q 'no textures' why
leat logs frames --failed | sort >failed
diff failed - <<'END'
[frames/13] frame 13: no textures
[frames/53] frame 53: no textures
[frames/93] frame 93: no textures
END
fails leat wait film 2>errors
grep -q 'DependencyFailed' errors
leat list --failed | grep -c 'taskset/frames \|taskset/film ' | grep -qx 2
fails ls frames/13

# With the textures, only these three run again, and the film with them.
touch textures
leat retry frames
leat run --name film-2 --workdir "$PWD" --array 1 --after frames-retry-1 -- sh -c 'cat frames/* | wc -l'
leat wait frames-retry-1 film-2 2>all
grep -q '120 of 120' all
leat logs film-2 | grep ' 120$'

# What each attempt took, and what it printed, can be looked up and kept.
leat history frames-retry-1 | grep -c '^13 \|^53 \|^93 ' | grep -qx 3
leat logs frames --output-dir output
grep -qx 'rendered frame 120' output/120*
