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
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/leat-dev/leat/test/kit"
)

// skipVariable is the environment variable that skips all tests of the package.
const skipVariable = "LEAT_SKIP_BROWSER"

// chromium is the browser that all tests share.
var chromium struct {
	start sync.Once
	ctx   context.Context
	close []func()
	err   error
}

// browser returns the context of the browser. Without a browser it fails the test: a skipped test proves nothing.
func browser(t testing.TB) context.Context {
	t.Helper()
	if os.Getenv(skipVariable) != "" {
		t.Skip(skipVariable + " is set")
	}
	chromium.start.Do(startBrowser)
	if chromium.err != nil {
		t.Fatalf("%v: install Debian's package chromium with hack/install-chromium.sh, or set %s=1", chromium.err, skipVariable)
	}
	return chromium.ctx
}

func startBrowser() {
	path, err := exec.LookPath("chromium")
	if err != nil {
		chromium.err = err
		return
	}
	profile, err := os.MkdirTemp("", "leat-chromium-")
	if err != nil {
		chromium.err = err
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		// Tabs that are not in front must go on drawing.
		chromedp.Flag("disable-background-timer-throttling", true), chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.WindowSize(1240, 900), chromedp.WSURLReadTimeout(2*time.Minute),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	chromium.ctx, chromium.err = ctx, chromedp.Do(ctx, chromedp.Navigate("about:blank"))
	chromium.close = []func(){cancel, stop, func() { _ = os.RemoveAll(profile) }}
}

func closeBrowser() {
	for _, end := range chromium.close {
		end()
	}
}

// tab is a tab of the browser.
type tab struct {
	ctx context.Context

	mu       sync.Mutex
	messages []string // errors and warnings on the console
	expected []string // parts of messages that are no errors
}

// newTab opens a tab until the test ends. The test fails if anything is written to its console.
func newTab(t testing.TB) *tab {
	t.Helper()
	parent := browser(t)
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithNewBrowserContext())
	b := &tab{ctx: ctx}
	messages := chromedp.Console(ctx)
	kit.Check(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	read := make(chan struct{})
	go func() {
		defer close(read)
		for message, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.messages = append(b.messages, message.String())
			b.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		for _, message := range b.written() {
			t.Errorf("the console has: %s", message)
		}
	})
	return b
}

// written returns the messages on the console that are not expected.
func (b *tab) written() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
messages:
	for _, message := range b.messages {
		for _, part := range b.expected {
			if strings.Contains(message, part) {
				continue messages
			}
		}
		all = append(all, message)
	}
	return all
}

// everything returns all messages on the console.
func (b *tab) everything() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.messages, "\n")
}

// expect makes messages on the console that have the text no errors.
func (b *tab) expect(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, part)
}

// open loads a page, and waits until its first content is drawn.
func (b *tab) open(t testing.TB, address string) {
	t.Helper()
	kit.Check(t, chromedp.Do(b.ctx, chromedp.Navigate(address)))
	b.waitFor(t, "the page is drawn", `document.body.dataset.drawn === 'true' && document.getElementById('connection').textContent === 'Live'`)
}

// waitFor waits until an expression of JavaScript is true.
func (b *tab) waitFor(t testing.TB, what, expression string) {
	t.Helper()
	kit.Eventually(t, what, func(context.Context) error {
		holds, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && !holds {
			text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText.slice(0, 3000)"))
			err = fmt.Errorf("%s is not true; console %q; the page has: %s", expression, b.written(), text)
		}
		return err
	})
}

// waitForText waits until an element has the text.
func (b *tab) waitForText(t testing.TB, selector, text string) {
	t.Helper()
	b.waitFor(t, selector+" has "+text, fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '').includes(%q)", selector, text))
}

// evaluate returns the value of an expression of JavaScript.
func evaluate[T any](t testing.TB, b *tab, expression string) T {
	t.Helper()
	return kit.Must(chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise)))(t)
}

// click clicks an element.
func (b *tab) click(t testing.TB, selector string) {
	t.Helper()
	kit.Check(t, chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS(selector))))
}

// press types keys.
func (b *tab) press(t testing.TB, keys string) {
	t.Helper()
	kit.Check(t, chromedp.Do(b.ctx, chromedp.KeyEvent(keys)))
}

// tabTo presses Tab until the element that matches has the focus.
func (b *tab) tabTo(t testing.TB, selector string) {
	t.Helper()
	for range 200 {
		b.press(t, kb.Tab)
		if evaluate[bool](t, b, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			return
		}
	}
	t.Fatalf("Tab does not reach %s", selector)
}

// scheme makes the page light or dark.
func (b *tab) scheme(t testing.TB, name string) {
	t.Helper()
	kit.Must(chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	}))(t)
}

// served is a "leat board".
type served struct {
	// url is the address of the page.
	url     string
	process *os.Process
	stop    func()
}

// serve starts "leat board" with a kubeconfig until the test ends.
func serve(t testing.TB, kubeconfig string, args ...string) *served {
	t.Helper()
	home := t.TempDir()
	command := exec.Command(kit.Program(t, "leat"), append([]string{"board", "--kubeconfig=" + kubeconfig}, args...)...)
	command.Dir, command.Env = home, append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	errOut := kit.Must(os.Create(filepath.Join(home, "stderr")))(t)
	command.Stderr = errOut
	out := kit.Must(command.StdoutPipe())(t)
	kit.Check(t, command.Start())
	board := &served{process: command.Process}
	board.stop = sync.OnceFunc(func() {
		kit.Check(t, command.Process.Signal(syscall.SIGTERM))
		if err := command.Wait(); err != nil {
			text, readErr := os.ReadFile(errOut.Name())
			t.Errorf("leat board: %v: %s", errors.Join(err, readErr), text)
		}
		kit.Check(t, errOut.Close())
	})
	t.Cleanup(board.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("leat board prints no address: %v", err)
	}
	board.url = strings.TrimSpace(line)
	return board
}
