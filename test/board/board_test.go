/*
Copyright The Leat Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package board

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
)

const namespace = "default"

// live is a "leat up" with workers, and a "leat board" that shows it.
type live struct {
	env        *kit.Env
	client     versioned.Interface
	kubeconfig string
	board      *served
	dir        string // of the files that commands wait for
}

func TestBoard(t *testing.T) {
	t.Parallel()
	browser(t)
	e := kit.Standalone(t, "--workers=2", "--worker-tasks=4")
	l := &live{env: e, client: kit.Client(t, e.Admin(t)), kubeconfig: e.Kubeconfig(t, e.Admin(t), namespace), dir: t.TempDir()}
	l.board = serve(t, l.kubeconfig)
	l.createObjects(t)
	t.Run("views", func(t *testing.T) {
		for name, run := range map[string]func(*testing.T){
			"now": l.showsNow, "sets": l.showsSets, "set": l.showsSet, "followed output": l.followsOutput, "hostile": l.showsHostileTexts,
			"pending": l.showsWhyPending, "keyboard": l.worksWithKeysAlone, "accessible": l.isAccessible,
			"other pages": l.refusesOtherPages, "requests": l.refusesRequests, "end of the board": l.reportsItsEnd,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t)
			})
		}
	})
	if *screenshots != "" {
		l.takePictures(t)
	}
}

// createSet creates a set of commands. Its name is in the script as $SET.
func (l *live) createSet(t testing.TB, name string, completions, parallelism int32, script string, change func(*batch.TaskSet)) {
	t.Helper()
	set := kit.NewTaskSet(name, "sh", "-c", script)
	set.Spec.CompletionMode, set.Spec.Completions, set.Spec.Parallelism = ptr.To(batch.IndexedCompletion), &completions, &parallelism
	set.Spec.BackoffLimitPerIndex = new(int32(0))
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: l.dir}}
	if change != nil {
		change(set)
	}
	kit.Must(l.client.BatchV1alpha1().TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
}

const hostileText = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`

func (l *live) createObjects(t *testing.T) {
	queue := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "night", Annotations: map[string]string{"note": hostileText}}}
	queue.Spec.Weight = new(int32(3))
	kit.Must(l.client.BatchV1alpha1().TaskQueues(namespace).Create(t.Context(), queue, metav1.CreateOptions{}))(t)
	l.createSet(t, "squares", 60, 4, `echo "square of $TASK_INDEX is $((TASK_INDEX * TASK_INDEX))"
[ $((TASK_INDEX % 20)) != 7 ] || { echo "bad input" >&2; exit 3; }`, nil)
	l.createSet(t, "hostile", 3, 3, `printf '\033[31mred\033[0m \033]0;title\007 %s\r\n' "$TASK_ITEM"; exit 1`, func(set *batch.TaskSet) {
		set.Spec.Items = []string{hostileText, "\u202eevil", "data: x\n\nevent: y"}
		set.Annotations = map[string]string{"note": hostileText}
	})
	l.createSet(t, "long", 4, 2, `echo begun; until [ -e "$DIR/on-$TASK_INDEX" ]; do sleep 0.2; done; echo went on
until [ -e "$DIR/end" ]; do sleep 0.2; done`, func(set *batch.TaskSet) {
		set.Spec.QueueName = "night"
	})
	l.createSet(t, "cubes", 60, 4, "true", func(set *batch.TaskSet) {
		set.Spec.DependsOn = []batch.TaskSetDependency{{Name: "squares", Condition: batch.TaskSetDependencyComplete}}
	})
	task := kit.NewTask("needs-gpu", "true")
	task.Spec.Resources.Requests = batch.ResourceList{"nvidia.com/gpu": *batchQuantity(1)}
	kit.Must(l.client.BatchV1alpha1().Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	for _, name := range []string{"squares", "hostile"} {
		kit.Eventually(t, name+" has ended", func(ctx context.Context) error {
			set, err := l.client.BatchV1alpha1().TaskSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil && set.Status.Failed == 0 {
				err = fmt.Errorf("status %+v", set.Status)
			}
			for i := 0; err == nil; i++ {
				if i == len(set.Status.Conditions) {
					return fmt.Errorf("status %+v", set.Status)
				}
				if c := set.Status.Conditions[i]; c.Type == batch.TaskSetFailed && c.Status == metav1.ConditionTrue {
					return nil
				}
			}
			return err
		})
	}
}

func (l *live) showsNow(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url)
	b.waitFor(t, "two workers are ready", `document.getElementById('ready').textContent === '2'`)
	b.waitForText(t, "#queues", "night")
	b.waitFor(t, "the weight of the queue", `[...document.querySelectorAll('#queues tbody tr')].some(r => r.cells[0].textContent === 'night' && r.cells[1].textContent === '3' && r.cells[3].textContent === '2')`)
	b.waitFor(t, "each worker has a row", `document.querySelectorAll('#workers tbody tr').length === 2`)
	b.waitFor(t, "the task that waits is counted", `document.getElementById('pending').textContent === '1'`)
	l.createSet(t, "counted", 20, 4, "true", nil)
	b.waitFor(t, "ends are counted", `parseInt(document.getElementById('rate-all').textContent) >= 20`)
	b.waitFor(t, "starts are measured", `/within/.test(document.getElementById('latency-most').textContent)`)
}

func (l *live) showsSets(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url+"sets")
	b.waitFor(t, "progress and failures", `[...document.querySelectorAll('#sets tbody tr')].some(r => r.innerText.includes('squares') && r.innerText.includes('57 / 60') && r.cells[1].textContent === 'Failed' && r.cells[3].textContent === '3')`)
	b.waitForText(t, "#sets", "long")
	b.click(t, "#filter")
	b.press(t, "squ")
	b.waitFor(t, "the filter leaves one", `document.querySelectorAll('#sets tbody tr').length === 1`)
	b.click(t, "#sets tbody a")
	b.waitForText(t, "h1", "squares")
	if at := evaluate[string](t, b, "location.pathname"); !strings.HasSuffix(at, "/set") {
		t.Errorf("the link leads to %s", at)
	}
}

// pixels returns the colours of a point in the middle of some cells of the map.
const pixels = `(indexes => {
  const canvas = document.getElementById('map'), context = canvas.getContext('2d');
  const step = map.size * canvas.width / (map.columns * map.size);
  return indexes.map(i => [...context.getImageData(Math.floor((i % map.columns + 0.15) * step), Math.floor((Math.floor(i / map.columns) + 0.15) * step), 1, 1).data].join());
})`

func (l *live) showsSet(t *testing.T) {
	b := newTab(t)
	b.expect("willReadFrequently") // only the test reads the map back
	b.open(t, l.board.url+"set?namespace=default&name=squares")
	b.waitForText(t, "#legend", "57 done")
	b.waitForText(t, "#legend", "3 failed")
	colours := evaluate[[]string](t, b, `['done', 'failed'].map(kind => [1, 3, 5].map(i => parseInt(colour(kind).hex.slice(i, i + 2), 16)).concat(255).join())`)
	got := evaluate[[]string](t, b, pixels+"([0, 59, 7, 27])")
	if want := []string{colours[0], colours[0], colours[1], colours[1]}; !slices.Equal(got, want) {
		t.Errorf("the cells of 0, 59, 7, 27 are %q, want %q", got, want)
	}
	b.waitForText(t, "#exits", "3 × exit code 3")
	b.waitFor(t, "the failures have their last line", `document.querySelectorAll('#failures tbody tr').length === 3 && document.querySelector('#failures').innerText.includes('bad input')`)
	b.waitForText(t, "#records-note", "60 attempts")
	b.waitFor(t, "durations are drawn", `document.querySelectorAll('#durations rect[height]').length > 5`)
	b.waitFor(t, "the slowest are listed", `document.querySelectorAll('#slowest tbody tr').length === 10`)
	b.waitForText(t, "#relations", "is followed by")
	b.waitForText(t, "#relations", "cubes")
	b.waitForText(t, "#conditions", "FailedIndexes")
	b.waitForText(t, "#events", "Events")

	b.click(t, "#output-form button[type=submit]")
	b.waitForText(t, "#output", "square of 59 is 3481")
	b.click(t, "#output-search")
	b.press(t, "BAD INPUT"+kb.Enter)
	b.waitFor(t, "the search finds three lines", `document.querySelectorAll('#output > div').length === 3 && document.getElementById('output-state').textContent === 'End of the output.'`)
	b.click(t, "#output > div:nth-child(2) button")
	b.waitFor(t, "the line leads to its index", `document.getElementById('output-index').value === '27' && document.getElementById('output').innerText.includes('square of 27')`)
	evaluate[bool](t, b, `(() => { const box = document.getElementById('map').getBoundingClientRect();
  const at = {clientX: box.left + map.size * 5.5, clientY: box.top + map.size / 2, bubbles: true};
  document.getElementById('map').dispatchEvent(new MouseEvent('mousemove', at));
  document.getElementById('map').dispatchEvent(new MouseEvent('click', at)); return true })()`)
	b.waitForText(t, "#map-note", "Index 5: done")
	b.waitForText(t, "#output", "square of 5 is 25")
}

func (l *live) followsOutput(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url+"set?namespace=default&name=long")
	b.waitForText(t, "#legend", "2 running")
	b.waitForText(t, "#state", "Running")
	b.click(t, "#output-index")
	b.press(t, "1"+kb.Enter)
	b.waitForText(t, "#output", "begun")
	kit.Check(t, os.WriteFile(filepath.Join(l.dir, "on-1"), nil, 0o600))
	b.waitForText(t, "#output", "went on")
	b.click(t, "#output-stop")
	b.waitForText(t, "#output-state", "Stopped.")
}

func (l *live) showsHostileTexts(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url+"set?namespace=default&name=hostile")
	b.waitForText(t, "#failures", "<img src=x")
	b.click(t, "#output-form button[type=submit]")
	b.waitForText(t, "#output", "red  "+hostileText)
	b.waitForText(t, "#output", "event: y")
	for _, address := range []string{"", "sets", "set?namespace=default&name=hostile", "pending"} {
		b.open(t, l.board.url+address)
	}
	if got := evaluate[string](t, b, `document.title + document.querySelectorAll('main img, main script, main iframe').length`); got != "Why pending · Leat0" {
		t.Errorf("title and elements: %q", got)
	}
	if text := evaluate[string](t, b, `document.documentElement.innerText`); strings.ContainsAny(text, "\x1b\u202e") {
		t.Errorf("the page has control characters: %q", text)
	}
}

func (l *live) showsWhyPending(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url+"pending")
	b.waitFor(t, "the reason", `[...document.querySelectorAll('#reasons tbody tr')].some(r => r.innerText.includes('task/needs-gpu') && r.innerText.includes('insufficient nvidia.com/gpu'))`)
	b.click(t, `#reasons a[href*="needs-gpu"]`)
	b.waitForText(t, "#explanation", "task/needs-gpu waits for a worker")
	b.waitForText(t, "#explanation", "0 of 2 could take it now")
	b.waitForText(t, "#reasons tr[aria-current]", "needs-gpu")
	first := evaluate[string](t, b, `document.getElementById('explain-at').textContent`)
	b.waitFor(t, "the explanation is repeated", fmt.Sprintf(`document.getElementById('explain-at').textContent !== %q`, first))
}

func (l *live) worksWithKeysAlone(t *testing.T) {
	b := newTab(t)
	b.open(t, l.board.url)
	b.press(t, kb.Tab+kb.Enter) // the link to the content comes first
	b.waitFor(t, "the content has the focus", `document.activeElement.id === 'content'`)
	b.open(t, l.board.url)
	b.tabTo(t, `a[href="sets"]`)
	b.press(t, kb.Enter)
	b.waitForText(t, "#sets", "squares")
	b.tabTo(t, "#filter")
	b.press(t, "squares")
	b.tabTo(t, "#sets a")
	b.press(t, kb.Enter)
	b.waitForText(t, "#legend", "57 done")
	b.tabTo(t, "#output-index")
	b.press(t, "7"+kb.Enter)
	b.waitForText(t, "#output", "bad input")
	b.waitFor(t, "the records are shown", `document.querySelectorAll('#slowest tbody button').length > 0`)
	b.tabTo(t, "#slowest button")
	index := evaluate[string](t, b, "document.activeElement.textContent")
	b.press(t, kb.Enter)
	b.waitFor(t, "the button shows the output of its index", fmt.Sprintf(`document.getElementById('output-index').value === %q && document.activeElement.id === 'output'`, index))
	b.tabTo(t, "button.copy")
	b.open(t, l.board.url)
	b.tabTo(t, `a[href="pending"]`)
	b.press(t, kb.Enter)
	b.waitForText(t, "#reasons", "needs-gpu")
	b.tabTo(t, "#reasons a")
	b.press(t, kb.Enter)
	b.waitFor(t, "an explanation is shown", `document.getElementById('explanation').children.length > 2`)
}

// isAccessible checks what a screen reader needs.
func (l *live) isAccessible(t *testing.T) {
	b := newTab(t)
	for _, address := range []string{"", "sets", "set?namespace=default&name=squares", "pending"} {
		b.open(t, l.board.url+address)
		for what, expression := range map[string]string{
			"landmarks":                          `document.querySelectorAll('header, nav[aria-label], main').length === 3`,
			"one heading of the first level":     `document.querySelectorAll('h1').length === 1`,
			"the current view is marked":         `document.querySelectorAll('nav [aria-current]').length === 1`,
			"changes are announced politely":     `document.getElementById('connection').getAttribute('aria-live') === 'polite'`,
			"pictures have a text":               `[...document.querySelectorAll('main [role=img]')].every(e => e.getAttribute('aria-label'))`,
			"fields have a label":                `[...document.querySelectorAll('input, select')].every(e => e.labels.length)`,
			"buttons and links have a name":      `[...document.querySelectorAll('button, a')].every(e => e.innerText.trim() || e.getAttribute('aria-label'))`,
			"tables have a caption and headings": `[...document.querySelectorAll('table')].every(e => e.caption && e.querySelectorAll('th[scope=col]').length)`,
			"states are told by a word":          `[...document.querySelectorAll('.state')].every(e => e.textContent.trim())`,
		} {
			b.waitFor(t, address+": "+what, expression)
		}
	}
	b.open(t, l.board.url+"set?namespace=default&name=squares")
	b.waitFor(t, "the map is told in words", `document.getElementById('map').getAttribute('aria-label') === '60 indexes: 57 done, 0 running, 3 failed, 0 pending'`)
}

// refusesOtherPages opens pages of other origins that know the address.
func (l *live) refusesOtherPages(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "<!doctype html><title>other</title><body>other</body>")
	}))
	defer other.Close()
	port := kit.Must(url.Parse(other.URL))(t).Port()
	for _, origin := range []string{"http://127.0.0.1:" + port, "http://localhost:" + port} {
		b := newTab(t)
		for _, part := range []string{"Failed to load resource", "blocked by CORS", "ERR_BLOCKED_BY_RESPONSE", "frame-ancestors", "X-Frame-Options", "MIME", "EventSource"} {
			b.expect(part)
		}
		kit.Check(t, chromedp.Do(b.ctx, chromedp.Navigate(origin)))
		for what, script := range map[string]string{
			"fetch":        `fetch(BOARD + 'board.js').then(r => r.text(), () => 'refused')`,
			"opaque fetch": `fetch(BOARD + 'board.js', {mode: 'no-cors'}).then(r => r.type, () => 'refused')`,
			"script":       `new Promise(done => { const e = document.createElement('script'); e.onload = () => done('loaded'); e.onerror = () => done('refused'); e.src = BOARD + 'board.js'; document.body.append(e) })`,
			"image":        `new Promise(done => { const e = new Image(); e.onload = () => done('loaded'); e.onerror = () => done('refused'); e.src = BOARD + 'icon.svg' })`,
			"events":       `new Promise(done => { const e = new EventSource(BOARD + 'events?view=now'); e.onmessage = () => done('read'); e.onerror = () => { e.close(); done('refused') } })`,
		} {
			if got := evaluate[string](t, b, strings.ReplaceAll(script, "BOARD", fmt.Sprintf("%q", l.board.url))); got != "refused" {
				t.Errorf("%s of %s: %s", what, origin, got)
			}
		}
		evaluate[bool](t, b, fmt.Sprintf("(() => { const e = document.createElement('iframe'); e.src = %q; document.body.append(e); return true })()", l.board.url))
		kit.Eventually(t, "the frame is refused", func(context.Context) error {
			if written := b.everything(); !strings.Contains(written, "frame-ancestors") {
				return fmt.Errorf("the console has %s", written)
			}
			return nil
		})
		if loaded := evaluate[bool](t, b, "typeof mostCells !== 'undefined'"); loaded {
			t.Errorf("%s runs the script of the page", origin)
		}
	}
}

// refusesRequests sends requests that no page of the board sends.
func (l *live) refusesRequests(t *testing.T) {
	address := kit.Must(url.Parse(l.board.url))(t)
	root := "http://" + address.Host + "/"
	for _, test := range []struct {
		name, method, url, host string
		want                    int
	}{
		{"the page", "GET", l.board.url, "", 200},
		{"no token", "GET", root, "", 404},
		{"a file without token", "GET", root + "board.js", "", 404},
		{"another token", "GET", root + strings.Repeat("0", 32) + "/", "", 404},
		{"another host", "GET", l.board.url, "board.example", 421},
		{"POST", "POST", l.board.url, "", 405},
		{"DELETE", "DELETE", l.board.url + "set?namespace=default&name=squares", "", 405},
		{"an unknown view", "GET", l.board.url + "events?view=secrets", "", 404},
		{"an unknown path", "GET", l.board.url + "api/v1/secrets", "", 404},
	} {
		request := kit.Must(http.NewRequestWithContext(t.Context(), test.method, test.url, nil))(t)
		if test.host != "" {
			request.Host = test.host
		}
		response := kit.Must(http.DefaultTransport.RoundTrip(request))(t)
		_, err := io.Copy(io.Discard, response.Body)
		kit.Check(t, errors.Join(err, response.Body.Close()))
		if response.StatusCode != test.want {
			t.Errorf("%s: status %d, want %d", test.name, response.StatusCode, test.want)
		}
	}
}

func (l *live) reportsItsEnd(t *testing.T) {
	board := serve(t, l.kubeconfig)
	b := newTab(t)
	b.expect("ERR_CONNECTION_REFUSED")
	b.expect("ERR_INCOMPLETE_CHUNKED_ENCODING")
	b.expect("ERR_EMPTY_RESPONSE")
	b.expect("ERR_CONNECTION_RESET")
	b.open(t, board.url)
	board.stop()
	b.waitForText(t, "#connection", "Disconnected")
	b.waitForText(t, "#trouble", "leat board, which may have ended")
}

// takePictures writes pictures of the views, light and dark.
func (l *live) takePictures(t *testing.T) {
	for _, name := range []string{"hostile", "long"} {
		kit.Check(t, l.client.BatchV1alpha1().TaskSets(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	l.createSet(t, "render-frames", 3000, 6, `echo "frame $TASK_INDEX"; sleep 0.0$((TASK_INDEX % 7 + 1)); [ $((TASK_INDEX % 41)) != 9 ] || { echo "frame $TASK_INDEX: no such texture" >&2; exit 2; }`, nil)
	l.createSet(t, "train-models", 200, 2, "sleep 4", func(set *batch.TaskSet) { set.Spec.QueueName = "night" })
	b := newTab(t)
	b.open(t, l.board.url+"set?namespace=default&name=render-frames")
	b.waitFor(t, "a third is done", "values.set.done > 1000")
	for name, address := range map[string]string{
		"now": "", "sets": "sets", "set": "set?namespace=default&name=render-frames", "pending": "pending?namespace=default&name=task/needs-gpu",
	} {
		b.open(t, l.board.url+address)
		switch name {
		case "now":
			b.waitFor(t, "some ends were counted", "samples.length > 40")
		case "set":
			b.waitFor(t, "the records are read", "values.records.count > 0")
			b.click(t, "#output-search")
			b.press(t, "texture"+kb.Enter)
			b.waitForText(t, "#output-state", "End")
			evaluate[bool](t, b, "document.activeElement.blur() ?? true")
		case "pending":
			b.waitFor(t, "it is explained", "values.explanation")
		}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(t, scheme)
			kit.Check(t, os.MkdirAll(*screenshots, 0o755))
			height := evaluate[float64](t, b, "document.querySelector('.commands').getBoundingClientRect().top")
			picture := kit.Must(chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{
				Format: page.CaptureScreenshotFormatPng, CaptureBeyondViewport: new(true), Clip: &page.Viewport{Width: 1240, Height: min(height, 1250), Scale: 1},
			}))(t)
			kit.Check(t, writePicture(filepath.Join(*screenshots, name+"-"+scheme+".png"), picture.Data))
		}
		b.scheme(t, "light")
	}
}

// writePicture writes a picture with at most 256 colours, which makes it small: the most frequent ones, and for each
// other one the nearest of them.
func writePicture(file string, data []byte) error {
	full, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return err
	}
	bounds, counts := full.Bounds(), map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	frequent := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	palette := color.Palette{}
	for _, c := range frequent[:min(len(frequent), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for _, c := range frequent {
		nearest[c] = uint8(palette.Index(c))
	}
	small := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			small.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	return errors.Join(encoder.Encode(out, small), out.Close())
}
