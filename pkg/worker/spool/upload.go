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

package spool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// uploaders is how many segments are uploaded at a time. The server accepts no more of a worker.
	uploaders = 2
	// uploadTimeout is the timeout of an upload.
	uploadTimeout = time.Minute
	// askTimeout is the timeout of the question whether there is an archive. The worker waits for the first answer.
	askTimeout = 5 * time.Second
	// askInterval is the time between two such questions.
	askInterval = 10 * time.Minute
	// maxDenials is how many times in a row a server has to forbid the question until it counts. A server that has just
	// started may not know the authority of the worker's certificate yet.
	maxDenials = 6
	// backoffBase and backoffCap are the first and the longest delay after a failed request.
	backoffBase, backoffCap = time.Second, 30 * time.Second
)

// Archiver sends segments to the server. The client of Workers implements it.
type Archiver interface {
	// Archive stores a segment of a worker. With an empty segment, it returns an error if there is no archive. The Status
	// has the limits of the server.
	Archive(ctx context.Context, worker string, opts *batch.WorkerArchiveOptions, segment []byte) (*metav1.Status, error)
}

// archiveState is what the server has last answered to the question whether there is an archive.
type archiveState int

const (
	archiveUnknown archiveState = iota
	archiveAvailable
	archiveNone
)

// Start asks the server whether there is an archive, and uploads segments until Stop. incarnation is that of the worker
// process. It may be called once.
func (s *Spool) Start(ctx context.Context, incarnation string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.incarnation = incarnation
	s.mu.Unlock()
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	delay := s.ask(ctx, 0)
	s.uploads.Go(func() { s.runAsking(ctx, delay) })
	for range uploaders {
		s.uploads.Go(func() { s.runUploads(ctx) })
	}
}

// Stop accepts no more attempts, ends all segments and uploads until all are sent, the server does not answer or ctx is
// done. What is left stays on the disk for the next process.
func (s *Spool) Stop(ctx context.Context) {
	if s == nil || s.cancel == nil {
		return
	}
	defer s.cancel()
	s.mu.Lock()
	s.stopped = true
	if s.away {
		// One more try, without delay, shows whether the server is back.
		s.resumeUploads, s.away = time.Time{}, false
	}
	for _, seg := range s.open {
		s.endLocked(seg)
	}
	s.mu.Unlock()
	close(s.stopping)
	ended := make(chan struct{})
	go func() {
		s.closers.Wait()
		s.mu.Lock()
		s.drained = true
		s.notifyLocked()
		s.mu.Unlock()
		s.uploads.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.cancel()
		<-ended
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) > 0 {
		klog.FromContext(ctx).Info("Output of tasks is not in the archive yet; the next process of this worker will send it",
			"segments", len(s.segments), "bytes", s.total, "dir", s.options.Dir)
	}
}

// isStopping reports whether Stop was called.
func (s *Spool) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// sleep waits for the duration, until wake is closed or ctx is done.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// runAsking asks whether there is an archive, first after the delay.
func (s *Spool) runAsking(ctx context.Context, delay time.Duration) {
	for failures := 1; ; {
		sleep(ctx, delay, s.stopping)
		if s.isStopping() || ctx.Err() != nil {
			return
		}
		s.expire()
		delay = s.ask(ctx, failures)
		failures++
		if delay == askInterval {
			failures = 0
		}
	}
}

// ask asks whether there is an archive, once the directory belongs to this process. It returns the delay until the next
// question.
func (s *Spool) ask(ctx context.Context, failures int) time.Duration {
	if acquired, err := s.acquire(); err != nil || !acquired {
		if failures == 0 {
			klog.FromContext(ctx).Info("Another process uses the directory for the archive; waiting for it to end",
				"dir", s.options.Dir, "err", err)
		}
		return lockInterval
	}
	requestCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := s.options.Archiver.Archive(requestCtx, s.options.Worker, &batch.WorkerArchiveOptions{}, nil)
	denied := s.isDenied(err)
	switch {
	case err == nil:
		s.setLimit(ctx, status)
		s.setArchive(ctx, archiveAvailable, nil)
	case isWithoutArchive(err) || denied:
		s.setArchive(ctx, archiveNone, err)
	default:
		if failures == 0 {
			klog.FromContext(ctx).Error(err, "Failed to ask whether there is an archive; retrying")
		}
		return backoff(failures, err)
	}
	return askInterval
}

// setArchive sets whether there is an archive, and logs it if that has changed.
func (s *Spool) setArchive(ctx context.Context, state archiveState, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.archive == state {
		return
	}
	s.archive = state
	if state == archiveAvailable {
		klog.FromContext(ctx).Info("Sending the output of finished tasks to the archive")
		if len(s.expected) > 0 {
			s.announceLocked()
		}
	} else {
		klog.FromContext(ctx).Info("There is no archive for this worker: it keeps the output of tasks in its logs", "cause", cause)
	}
	s.notifyLocked()
}

// setLimit sets how many bytes of the output of an attempt are kept: no more than the server accepts. It logs a change.
func (s *Spool) setLimit(ctx context.Context, status *metav1.Status) {
	limit := s.options.MaxBytesPerAttempt
	if accepted, ok := batch.MaxBytesPerAttempt(status); ok {
		limit = min(limit, accepted)
	}
	if before := s.maxBytesPerAttempt.Swap(limit); before != limit {
		klog.FromContext(ctx).Info("Changed how much of the output of an attempt is kept for the archive: the smaller of what this worker "+
			"and what the server is configured with", "bytes", limit, "before", before, "configured", s.options.MaxBytesPerAttempt)
	}
}

// isDenied counts the error of a question, and reports whether the server forbids this worker to use its archive, or is
// so old that it forbids what it does not know.
func (s *Spool) isDenied(err error) bool {
	if statusCode(err) != http.StatusForbidden {
		s.denials = 0
		return false
	}
	s.denials++
	return s.denials >= maxDenials
}

// isWithoutArchive reports whether the server has no archive, or does not know about archives.
func isWithoutArchive(err error) bool {
	switch statusCode(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return false
}

// isRefused reports whether the server will never store the segment.
func isRefused(err error) bool {
	switch statusCode(err) {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// statusCode returns the HTTP status of an error of the server, 0 of another error.
func statusCode(err error) int {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return int(status.Status().Code)
	}
	return 0
}

// backoff returns the delay after so many failures in a row and one more, with the given error.
func backoff(failures int, err error) time.Duration {
	delay := jittered(min(backoffCap, backoffBase<<min(failures, 10)))
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		delay = max(delay, time.Duration(seconds)*time.Second)
	}
	return delay
}

// runUploads uploads segments until the spool stops and no more can be sent, or ctx is done.
func (s *Spool) runUploads(ctx context.Context) {
	for ctx.Err() == nil {
		seg, delay, changed := s.nextUpload()
		switch {
		case seg != nil:
			s.uploaded(ctx, seg, s.upload(ctx, seg))
		case changed != nil:
			sleep(ctx, delay, changed)
		default:
			return
		}
	}
}

// nextUpload returns the next segment to upload: the oldest of those with the fewest failures, so that one whose upload
// always fails does not keep others back. If there is none, the caller must look again when changed is closed, or after
// the delay; changed is nil if there will be none.
func (s *Spool) nextUpload() (next *unsent, delay time.Duration, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		if seg.phase == phasePending && (next == nil || seg.failures < next.failures) {
			next = seg
		}
	}
	sendable := next != nil && s.archive == archiveAvailable
	switch wait := time.Until(s.resumeUploads); {
	case s.drained && !sendable || s.stopped && s.away:
		return nil, 0, nil
	case !sendable:
		return nil, askInterval, s.changed
	case wait > 0:
		return nil, wait, s.changed
	}
	s.transition(next, phaseUploading)
	return next, 0, nil
}

// upload sends a segment.
func (s *Spool) upload(ctx context.Context, seg *unsent) error {
	body, err := os.ReadFile(s.path(seg.name))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(body)
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	_, err = s.options.Archiver.Archive(ctx, s.options.Worker, &batch.WorkerArchiveOptions{
		TaskSetUID: string(seg.set), Incarnation: seg.incarnation, Segment: seg.number, Digest: hex.EncodeToString(digest[:]),
	}, body)
	return err
}

// uploaded records the result of an upload.
func (s *Spool) uploaded(ctx context.Context, seg *unsent, err error) {
	if isWithoutArchive(err) {
		s.setArchive(ctx, archiveNone, err)
	}
	logger := klog.FromContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	result := "failed"
	failures := s.uploadFailures
	s.uploadFailures, s.away = 0, false
	switch {
	case err == nil:
		result = "stored"
		s.removeFile(seg.name)
		s.transition(seg, phaseGone)
	case errors.Is(err, fs.ErrNotExist):
		logger.Error(err, "Somebody has removed output that is not in the archive yet")
		s.options.Metrics.droppedBytes.Add(float64(seg.size))
		s.transition(seg, phaseGone)
	case isRefused(err):
		result = "refused"
		logger.Error(err, "The server refuses output of tasks for the archive; it is kept in another directory for the retention of logs",
			"file", filepath.Join(s.path(refusedDir), seg.name), "bytes", seg.size)
		s.transition(seg, phaseGone)
		s.refuseLocked(seg)
	case isWithoutArchive(err):
		s.transition(seg, phasePending)
	default:
		if seg.failures++; seg.failures == 1 && ctx.Err() == nil {
			logger.Error(err, "Failed to send output of tasks to the archive; retrying", "file", seg.name, "bytes", seg.size)
		}
		_, retries := apierrors.SuggestsClientDelay(err)
		s.uploadFailures, s.resumeUploads, s.away = failures+1, time.Now().Add(backoff(failures, err)), !retries
		s.transition(seg, phasePending)
	}
	s.options.Metrics.uploads.WithLabelValues(result).Inc()
}

// refuseLocked moves the file of a segment that has left the spool to the refused ones. s.mu must be held.
func (s *Spool) refuseLocked(seg *unsent) {
	now, moved := time.Now(), s.path(filepath.Join(refusedDir, seg.name))
	err := os.Rename(s.path(seg.name), moved)
	if err == nil {
		err = os.Chtimes(moved, now, now) // the retention counts from here
	}
	if err != nil {
		klog.Background().Error(err, "Failed to move a file that the server refuses")
	}
	s.refused = slices.DeleteFunc(s.refused, func(r refused) bool { return r.name == seg.name })
	s.refused = append(s.refused, refused{seg.name, seg.size, now})
	s.total += seg.size
}
