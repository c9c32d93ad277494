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

// The words command fails when comments or documents are not in the field's language: comment lines over 120 columns,
// words of a dialect that readers must translate, and exported declarations without a doc comment.
// It checks all files that git tracks.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxColumns is the maximum length of a comment line in characters. A tab counts as one.
const maxColumns = 120

// dialect lists the refused words, with the reason and what to write instead. It has only words with few false
// positives: a reviewer has to catch the others.
var dialect = []struct {
	word *regexp.Regexp
	why  string
}{
	{word(`gives`), `write "returns", "sets" or "assigns"; Go documentation says what a function returns`},
	{word(`(says|say|tells|tell) (whether|if|what|which|who|how|why|when|where|that)`), `write "reports whether" or "returns"`},
	{word(`for ever`), `write "forever", or name what ends it`},
	{word(`whoever`), `name the subject: the client, the caller, the user`},
	{word(`anew`), `write "again" or "new"`},
	{word(`takes? in`), `write "accepts", "reads" or "records"`},
	{word(`(has|have|had) (it|them|this|that|all|something|nothing) done`), `name the actor and use the active voice`},
	{word(`(is|are|was|were) to be`), `write "must be" or "will be"`},
	{word(`(is|are|was|were) told`), `name the actor and use the active voice`},
	{word(`(of|by) which`), `start a new sentence, or write "whose" or "with which"`},
	{word(`what is (said|asked|wanted|meant|there)`), `name the thing: the value, the request, the object`},
	{word(`(is known of|what is known)`), `name the state, the cache or the record`},
	{word(`g(iv(e|es|en|ing)|ave)( (it|them|tasks))? back`), `write "evict", "release" or "restore"`},
	{word(`(told|tells?( (it|them|these))?) apart`), `write "distinguish"`},
	{word(`lets? (in|through)`), `write "admit", "accept" or "allow"`},
	{word(`(tried|tries) again`), `write "retry"`},
	{word(`signs? of life`), `write "heartbeat"`},
	{word(`since when`), `write "the time since", "the start of" or "the duration"`},
	{word(`as ever`), `write "as usual" or "as before"`},
	{word(`in vain`), `write "without success", or name the result`},
}

func word(pattern string) *regexp.Regexp { return regexp.MustCompile(`(?i)\b(` + pattern + `)\b`) }

func main() {
	list := exec.Command("git", "ls-files", "-z")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		log.Fatal(err)
	}
	failed := false
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			log.Fatal(err)
		}
		faults, err := check(name, content)
		if err != nil {
			log.Fatal(err)
		}
		for _, fault := range faults {
			failed = true
			fmt.Fprintf(os.Stderr, "%s:%d: %s\n", name, fault.line, fault.text)
		}
	}
	if failed {
		os.Exit(1)
	}
}

// fault is a violation in a line of a file.
type fault struct {
	line int
	text string
}

// line is a line of prose. In a comment it has the whole source line; columns is false for text that may be longer.
type line struct {
	number  int
	text    string // without comment marks
	source  string
	columns bool
}

// check returns the faults of a file. Files that are neither source nor documents have none.
func check(name string, content []byte) ([]fault, error) {
	var faults []fault
	var paragraphs [][]line
	base, ext := path.Base(name), path.Ext(name)
	switch {
	case generated(content) || strings.Contains(name, "/testdata/"):
		return nil, nil
	case ext == ".go":
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(name, "_test.go") {
			faults = undocumented(set, file)
		}
		paragraphs = goComments(set, file, content)
	case ext == ".sh", ext == ".yaml", ext == ".yml", base == "Makefile", base == "Dockerfile":
		paragraphs = hashComments(content)
	case ext == ".md":
		paragraphs = prose(content)
	}
	for _, paragraph := range paragraphs {
		faults = append(faults, checkColumns(paragraph)...)
		faults = append(faults, checkWords(paragraph)...)
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return a.line - b.line })
	return faults, nil
}

var generatedMark = regexp.MustCompile(`(?m)^// (Code generated .* DO NOT EDIT\.)$`)

func generated(content []byte) bool { return generatedMark.Match(content) }

// goComments returns the comment groups of a Go file, without directives and markers.
func goComments(set *token.FileSet, file *ast.File, content []byte) [][]line {
	source := strings.Split(string(content), "\n")
	var groups [][]line
	for _, group := range file.Comments {
		var lines []line
		for _, comment := range group.List {
			number := set.Position(comment.Pos()).Line
			for i, text := range strings.Split(comment.Text, "\n") {
				whole := source[number+i-1]
				trimmed := strings.TrimSpace(whole)
				if strings.HasPrefix(text, "//go:") || strings.HasPrefix(text, "// +") {
					continue
				}
				text = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(text, "//"), "/*"), "*/")
				lines = append(lines, line{
					number: number + i, text: text, source: whole,
					columns: !strings.HasPrefix(text, "\t") && (i > 0 || strings.HasPrefix(trimmed, "//") || strings.HasPrefix(trimmed, "/*")),
				})
			}
		}
		groups = append(groups, lines)
	}
	return groups
}

// hashComment matches a comment that begins with #, alone or after code, but not the first line of a script.
var hashComment = regexp.MustCompile(`^(\s*|.*?\s)#( .*|)$`)

// hashComments returns the comments of shell scripts, YAML files and makefiles. Indented lines are preformatted.
func hashComments(content []byte) [][]line {
	var groups [][]line
	var lines []line
	for i, source := range strings.Split(string(content), "\n") {
		match := hashComment.FindStringSubmatch(source)
		whole := match != nil && strings.TrimSpace(match[1]) == ""
		if !whole && len(lines) > 0 {
			groups, lines = append(groups, lines), nil
		}
		if match != nil {
			lines = append(lines, line{number: i + 1, text: match[2], source: source, columns: whole && !strings.HasPrefix(match[2], "   ")})
		}
	}
	return append(groups, lines)
}

// prose returns the paragraphs of a Markdown document, without blocks of code.
func prose(content []byte) [][]line {
	var paragraphs [][]line
	var lines []line
	fenced := false
	for i, source := range strings.Split(string(content), "\n") {
		fence := strings.HasPrefix(strings.TrimSpace(source), "```")
		if fence {
			fenced = !fenced
		}
		if fence || fenced || strings.TrimSpace(source) == "" {
			paragraphs, lines = append(paragraphs, lines), nil
			continue
		}
		lines = append(lines, line{number: i + 1, text: source, source: source})
	}
	return append(paragraphs, lines)
}

// checkColumns returns the comment lines that are too long. A line with a URL may be.
func checkColumns(lines []line) []fault {
	var faults []fault
	for _, l := range lines {
		if n := utf8.RuneCountInString(l.source); l.columns && n > maxColumns && !strings.Contains(l.source, "://") {
			faults = append(faults, fault{l.number, fmt.Sprintf("the comment has %d columns: wrap it at %d", n, maxColumns)})
		}
	}
	return faults
}

// checkWords returns the words of the dialect in a paragraph. They may be on two lines.
func checkWords(lines []line) []fault {
	var text bytes.Buffer
	var starts []int
	for _, l := range lines {
		starts = append(starts, text.Len())
		text.WriteString(strings.TrimSpace(l.text) + " ")
	}
	var faults []fault
	for _, refused := range dialect {
		for _, at := range refused.word.FindAllIndex(text.Bytes(), -1) {
			i, _ := slices.BinarySearch(starts, at[0]+1)
			found := text.Bytes()[at[0]:at[1]]
			faults = append(faults, fault{lines[i-1].number, fmt.Sprintf("%q: %s", found, refused.why)})
		}
	}
	return faults
}

// undocumented returns the exported declarations of a file without a doc comment. Methods of unexported types need
// none.
func undocumented(set *token.FileSet, file *ast.File) []fault {
	if file.Name.Name == "main" {
		return nil
	}
	var faults []fault
	need := func(name *ast.Ident, documented bool) {
		if name.IsExported() && !documented {
			faults = append(faults, fault{set.Position(name.Pos()).Line, name.Name + " is exported and has no doc comment"})
		}
	}
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || receiverExported(d.Recv.List[0].Type) {
				need(d.Name, d.Doc != nil)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					need(s.Name, d.Doc != nil || s.Doc != nil)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						need(name, d.Doc != nil || s.Doc != nil || s.Comment != nil)
					}
				}
			}
		}
	}
	return faults
}

func receiverExported(receiver ast.Expr) bool {
	for {
		switch r := receiver.(type) {
		case *ast.StarExpr:
			receiver = r.X
		case *ast.IndexExpr:
			receiver = r.X
		case *ast.IndexListExpr:
			receiver = r.X
		case *ast.Ident:
			return r.IsExported()
		default:
			return false
		}
	}
}
