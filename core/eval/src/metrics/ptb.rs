//! Penn Treebank words of a caption, split as in the caption metrics' reference implementation.
//!
//! pycocoevalcap 1.2 runs Stanford CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase` and
//! then drops punctuation. This is an independent scanner for the same language, written from that
//! program's observable output. It works like such lexers: of all rules that match at a position,
//! the longest match wins. Look-ahead text counts towards a rule's length. In a tie, the rule
//! listed first in `Scanner::longest` wins. Web addresses, emoticons and markup are supported as
//! far as they occur in captions (no tags with attributes).

/// Tokens that are not words. Brackets are words: the reference compares upper-case names with
/// lower-cased tokens, so `-lrb-` stays in.
const PUNCTUATION: [&str; 13] =
    ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// Abbreviations that keep their full stop in any context.
const ABBREVIATIONS: &[&str] = &[
    // people
    "adm", "asst", "atty", "attys", "brig", "capt", "cmdr", "col", "comdr", "cpl", "det", "dr",
    "drs", "ens", "esq", "gen", "gov", "govs", "hon", "insp", "jr", "lieut", "lt", "maj", "messrs",
    "mlle", "mme", "mr", "mrs", "ms", "msgr", "pfc", "ph", "ph.d", "pres", "prof", "profs", "pvt",
    "rep", "reps", "rev", "sen", "sens", "sfc", "sgt", "spc", "sr", "supt", "supts", "treas",
    "alex", "jos", "wm", // firms
    "assn", "assoc", "bancorp", "bhd", "bros", "cie", "co", "corp", "cos", "dept", "elec", "inc",
    "ind", "intl", "invt", "ltd", "mfg", "mtg", "natl", "plc", "ppte", "pptes", "ppty", "pptys",
    "pte", "ptes", "pty", "ptys", "sys", "univ", // places
    "ala", "ariz", "ave", "bldg", "blvd", "calif", "colo", "conn", "ct", "dak", "fla", "ft", "ga",
    "kan", "kans", "ky", "md", "mich", "minn", "mo", "mont", "mt", "neb", "nev", "okla", "penn",
    "rd", "rt", "sq", "st", "ste", "tenn", "va", "vt", "wis", "wisc",
    "wyo", // days and months
    "apr", "aug", "dec", "feb", "fri", "jan", "jul", "jun", "mar", "mon", "nov", "oct", "sep",
    "sept", "thu", "thurs", "tue", "tues", "wed", // writing
    "adj", "adv", "al", "cf", "est", "etc", "ext", "seq", "tel", "vs",
];

/// Place abbreviations that are also words: they keep the full stop only if capitalized.
const CAPITALISED_ABBREVIATIONS: &[&str] =
    &["ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"];

/// Abbreviations that keep the full stop only before a number.
const NUMBERING_ABBREVIATIONS: &[&str] =
    &["art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"];

/// Capitalized words that start a sentence, so that `X.` before them ends a sentence and is not an
/// initial.
const SENTENCE_OPENERS: &[&str] = &[
    "a",
    "about",
    "according",
    "after",
    "an",
    "as",
    "at",
    "but",
    "he",
    "her",
    "here",
    "however",
    "if",
    "in",
    "it",
    "last",
    "many",
    "more",
    "now",
    "once",
    "one",
    "other",
    "our",
    "she",
    "since",
    "so",
    "some",
    "such",
    "that",
    "the",
    "their",
    "then",
    "there",
    "these",
    "they",
    "this",
    "we",
    "what",
    "when",
    "while",
    "yet",
    "you",
];

/// Words written as one that the treebank writes as two, with the length of the first part.
const TWO_WORDS: &[(&str, usize)] =
    &[("cannot", 3), ("gonna", 3), ("gotta", 3), ("wanna", 3), ("gimme", 3), ("lemme", 3)];

/// Words of one caption, lower-cased, without punctuation, joined by single spaces.
pub fn tokenize(caption: &str) -> String {
    tokenize_lines(&[caption]).pop().expect("one line in, one line out")
}

/// Words of each caption, as from [`tokenize`] for captions in one file in this order.
///
/// The reference tokenizes a whole set at once. A one-letter word at the end of a caption may keep
/// its full stop or not, depending on the start of the next caption (`.. seen on Avenue D.`).
pub fn tokenize_lines<S: AsRef<str>>(captions: &[S]) -> Vec<String> {
    let mut text = Vec::new();
    for caption in captions {
        let caption = caption.as_ref().chars().filter(|&c| c != SOFT_HYPHEN);
        text.extend(caption.map(|c| if c == '\n' { ' ' } else { c }));
        text.push('\n');
    }
    Scanner { text: &text }.lines()
}

/// A rule's match: the text that it covers, and the part that becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    /// Characters covered, including look-ahead.
    seen: usize,
    /// Characters that become the token.
    len: usize,
    /// Position at which the token is split in two.
    cut: Option<usize>,
}

impl Match {
    fn token(len: usize) -> Self {
        Self { seen: len, len, cut: None }
    }
}

struct Scanner<'a> {
    text: &'a [char],
}

impl Scanner<'_> {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        let mut at = 0;
        while let Some(c) = self.get(at) {
            if c == '\n' {
                lines.push(std::mem::take(&mut line));
                at += 1;
            } else if c.is_whitespace() || c.is_control() || is_invisible(c) {
                at += 1;
            } else {
                at += self.push_token(at, &mut line);
            }
        }
        lines
    }

    /// Appends the token at `at` to `line` and returns its length in characters.
    fn push_token(&self, at: usize, line: &mut String) -> usize {
        if let Some((len, word)) = self.entity(at) {
            push_word(line, word);
            return len;
        }
        let Some(found) = self.longest(at) else {
            push_word(line, &symbol(self.text[at]));
            return 1;
        };
        let token = &self.text[at..at + found.len];
        let (head, tail) = token.split_at(found.cut.unwrap_or(token.len()));
        push_word(line, &spelling(head));
        push_word(line, &spelling(tail));
        found.len
    }

    fn longest(&self, at: usize) -> Option<Match> {
        let rules = [
            Self::contraction_stem,
            Self::contraction,
            Self::clipped_word,
            Self::two_words,
            Self::sentence_end,
            Self::abbreviation,
            Self::acronym,
            Self::stopped_word,
            Self::word,
            Self::apostrophe_word,
            Self::hyphenated,
            Self::hyphenated_ascii,
            Self::slashed,
            Self::ampersand_name,
            Self::fraction,
            Self::number,
            Self::phone_number,
            Self::currency,
            Self::address,
            Self::tag,
            Self::smiley,
            Self::repeated_symbol,
        ];
        let mut best: Option<Match> = None;
        for rule in rules {
            if let Some(found) = rule(self, at)
                && best.is_none_or(|b| found.seen > b.seen)
            {
                best = Some(found);
            }
        }
        best
    }

    fn get(&self, at: usize) -> Option<char> {
        self.text.get(at).copied()
    }

    fn is(&self, at: usize, class: impl Fn(char) -> bool) -> bool {
        self.get(at).is_some_and(class)
    }

    /// Length of the run of characters of `class` that starts at `at`.
    fn run(&self, at: usize, class: impl Fn(char) -> bool) -> usize {
        self.text[at.min(self.text.len())..].iter().take_while(|&&c| class(c)).count()
    }

    /// Whether the text at `at` equals `lower`, ignoring case; `'` matches any apostrophe.
    fn reads(&self, at: usize, lower: &str) -> bool {
        lower.chars().enumerate().all(|(i, want)| {
            self.is(at + i, |c| {
                c.to_ascii_lowercase() == want || (want == '\'' && is_apostrophe(c))
            })
        })
    }

    fn lower(&self, at: usize, len: usize) -> String {
        self.text[at..at + len].iter().flat_map(|c| c.to_lowercase()).collect()
    }

    /// `do` of `don't`, `dog` of `dog's`: letters before a contraction.
    fn contraction_stem(&self, at: usize) -> Option<Match> {
        let letters = self.run(at, is_letter);
        let negated = (1..letters).find(|&i| i + 1 == letters && self.reads(at + i, "n't"));
        if let Some(len) = negated {
            return Some(Match { seen: len + 3, len, cut: None });
        }
        let suffix = CONTRACTIONS.iter().find(|suffix| self.reads(at + letters, suffix))?;
        (letters > 0).then(|| Match { seen: letters + suffix.len(), len: letters, cut: None })
    }

    /// `n't`, `'s`, `'ll`.
    fn contraction(&self, at: usize) -> Option<Match> {
        let fits =
            |suffix: &&&str| self.reads(at, suffix) && !self.is(at + suffix.len(), is_letter);
        if fits(&&"n't") {
            return Some(Match::token(3));
        }
        CONTRACTIONS.iter().find(fits).map(|suffix| Match::token(suffix.len()))
    }

    /// Words that begin with an apostrophe: `'em`, `'til`, `'n'`, `'t` of `'tis`, `'80s`, `'08`.
    fn clipped_word(&self, at: usize) -> Option<Match> {
        if !self.is(at, is_apostrophe) {
            return None;
        }
        for word in ["'till", "'til", "'em", "'cause", "'n'"] {
            if self.reads(at, word) {
                return Some(Match::token(word.len()));
            }
        }
        if self.reads(at, "'n") && !self.is(at + 2, is_letter) {
            return Some(Match::token(2));
        }
        for rest in ["is", "was"] {
            if self.reads(at, "'t") && self.reads(at + 2, rest) {
                return Some(Match { seen: 2 + rest.len(), len: 2, cut: None });
            }
        }
        if !(self.is(at + 1, is_digit) && self.is(at + 2, is_digit)) {
            return None;
        }
        if self.get(at + 2) == Some('0') && self.reads(at + 3, "s") {
            return Some(Match::token(4));
        }
        self.is(at + 3, char::is_whitespace).then_some(Match { seen: 4, len: 3, cut: None })
    }

    fn two_words(&self, at: usize) -> Option<Match> {
        let (word, cut) = TWO_WORDS.iter().find(|(word, _)| self.reads(at, word))?;
        let len = word.len();
        Some(Match { seen: len, len, cut: Some(*cut) })
    }

    /// `X` of `X. The`: one letter that ends a sentence.
    fn sentence_end(&self, at: usize) -> Option<Match> {
        if !(self.is(at, is_letter) && self.get(at + 1) == Some('.')) {
            return None;
        }
        let space = self.run(at + 2, char::is_whitespace);
        let opener = at + 2 + space;
        let letters = self.run(opener, is_letter);
        let word = self.lower(opener, letters);
        let opens = space > 0
            && self.is(opener, char::is_uppercase)
            && match self.get(opener + letters) {
                Some('.') => matches!(word.as_str(), "mr" | "ms"),
                Some(c) => c.is_whitespace() && SENTENCE_OPENERS.contains(&word.as_str()),
                None => false,
            };
        opens.then_some(Match { seen: 2 + space + letters, len: 1, cut: None })
    }

    /// `Mr.`, `etc.`, `no.` before a number, and the one-letter `J.`
    fn abbreviation(&self, at: usize) -> Option<Match> {
        if self.reads(at, "ph.d.") {
            return Some(Match { seen: usize::MAX, len: 5, cut: None });
        }
        let letters = self.run(at, is_letter);
        if letters == 0 || letters > 7 || self.get(at + letters) != Some('.') {
            return None;
        }
        let len = letters + 1;
        let word = self.lower(at, letters);
        let always = (letters == 1 && word.is_ascii())
            || ABBREVIATIONS.contains(&word.as_str())
            || (self.is(at, char::is_uppercase)
                && CAPITALISED_ABBREVIATIONS.contains(&word.as_str()));
        if always {
            return Some(Match::token(len));
        }
        let digit = at + len + usize::from(self.is(at + len, char::is_whitespace));
        let numbers = self.is(digit, is_digit) && NUMBERING_ABBREVIATIONS.contains(&word.as_str());
        numbers.then_some(Match { seen: digit + 1 - at, len, cut: None })
    }

    /// `U.S.`, `a.m.`, `T.V`: single letters with full stops between.
    fn acronym(&self, at: usize) -> Option<Match> {
        let len = self.dotted_letters(at)?;
        Some(Match::token(len + usize::from(self.get(at + len) == Some('.'))))
    }

    /// Length of `U.S` at `at`, without the last full stop.
    fn dotted_letters(&self, at: usize) -> Option<usize> {
        let mut len = usize::from(self.is(at, is_letter));
        while len > 0 && self.get(at + len) == Some('.') && self.is(at + len + 1, is_letter) {
            len += 2;
        }
        (len > 1).then_some(len)
    }

    /// Letters and digits, also across a full stop without a space: `wall.A`, `google.com`.
    fn word(&self, at: usize) -> Option<Match> {
        if !self.is(at, is_letter) {
            return None;
        }
        let mut len = self.run(at, is_letter_or_digit);
        while self.is(at + len, |c| matches!(c, '.' | '!' | '?'))
            && self.is(at + len + 1, is_letter)
        {
            len += 1 + self.run(at + len + 1, is_letter_or_digit);
        }
        Some(Match::token(len))
    }

    /// A word whose full stop cannot end the sentence, because a comma, colon or semicolon follows:
    /// `approx., `.
    fn stopped_word(&self, at: usize) -> Option<Match> {
        let len = self.hyphenated(at)?.len.max(self.word(at).map_or(0, |word| word.len));
        let inside = self.get(at + len) == Some('.')
            && self.is(at + len + 1, |c| matches!(c, ',' | ':' | ';'));
        inside.then_some(Match { seen: len + 2, len: len + 1, cut: None })
    }

    /// Words with an apostrophe inside (`o'clock`, `ma'am`, `Hawai'i`) or at the end (`d'`, `ol'`).
    fn apostrophe_word(&self, at: usize) -> Option<Match> {
        for word in ["dunkin'", "somethin'", "ol'", "e'er", "li'l"] {
            if self.reads(at, word) {
                return Some(Match::token(word.len()));
            }
        }
        let letters = self.run(at, is_letter);
        if letters == 0 || !self.is(at + letters, is_apostrophe) {
            return None;
        }
        let first = self.text[at];
        let rest = self.run(at + letters + 1, is_letter);
        let joins = if letters == 1 {
            rest >= 2 && matches!(first, 'A'..='H' | 'J'..='X' | 'Z' | 'n')
        } else {
            self.is(at + letters - 1, |c| "aeiouyAEIOUY".contains(c))
                && self.is(at + letters + 1, |c| "aeiou".contains(c) || c.is_ascii_uppercase())
        };
        if joins {
            return Some(Match::token(letters + 1 + rest));
        }
        let elided = matches!(first, 'd' | 'D' | 'j' | 'J' | 'l' | 'L')
            || (matches!(first, 'y' | 'Y') && rest > 0);
        (letters == 1 && elided).then_some(Match::token(2))
    }

    /// Parts joined by hyphens or underscores: `close-up`, `MP3`, `jack-o'lantern`.
    fn hyphenated(&self, at: usize) -> Option<Match> {
        let mut len = self.hyphen_part(at)?;
        while self.is(at + len, is_hyphen)
            && let Some(part) = self.hyphen_part(at + len + 1)
        {
            len += 1 + part;
        }
        Some(Match::token(len))
    }

    fn hyphen_part(&self, at: usize) -> Option<usize> {
        let elided = self.is(at, |c| "dDoOlL".contains(c)) && self.is(at + 1, is_apostrophe);
        if elided {
            let rest = self.run(at + 2, is_letter_or_digit);
            if rest >= 2 {
                return Some(2 + rest);
            }
        }
        let len = self.run(at, is_letter_or_digit);
        (len > 0).then_some(len)
    }

    /// `U.S.-made`, `lamp,side-table`: like [`Self::hyphenated`], with full stops and commas before
    /// the hyphen.
    fn hyphenated_ascii(&self, at: usize) -> Option<Match> {
        if !self.is(at, |c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let stem = self.run(at, |c| c.is_ascii_alphanumeric() || c == '.' || c == ',');
        let mut len = stem;
        while self.get(at + len) == Some('-') {
            let part = at + len + 1;
            let dotted = self.dotted_letters(part).filter(|n| self.get(part + n) == Some('.'));
            match dotted.map_or_else(|| self.run(part, |c| c.is_ascii_alphanumeric()), |n| n + 1) {
                0 => break,
                n => len += 1 + n,
            }
        }
        (len > stem).then_some(Match::token(len))
    }

    /// Up to three parts with slashes between: `and/or`, `12/31/1999`, `table/work-desk`.
    fn slashed(&self, at: usize) -> Option<Match> {
        let mut len = self.slash_part(at)?;
        let mut n_parts = 1;
        while n_parts < 3
            && self.get(at + len) == Some('/')
            && let Some(part) = self.slash_part(at + len + 1)
        {
            len += 1 + part;
            n_parts += 1;
        }
        (n_parts > 1).then_some(Match::token(len))
    }

    fn slash_part(&self, at: usize) -> Option<usize> {
        let mut len = self.run(at, |c| c.is_ascii_alphanumeric());
        if len == 0 {
            return None;
        }
        for _ in 0..2 {
            let more = self.run(at + len + 1, |c| c.is_ascii_alphabetic());
            if self.get(at + len) != Some('-') || more == 0 {
                break;
            }
            len += 1 + more;
        }
        Some(len)
    }

    /// `AT&T`, `A+B`.
    fn ampersand_name(&self, at: usize) -> Option<Match> {
        let mut len = self.run(at, |c| c.is_ascii_uppercase());
        let mut n_parts = usize::from(len > 0);
        while n_parts > 0 {
            let joint = match self.get(at + len) {
                Some('&') if self.reads(at + len, "&amp;") => 5,
                Some('&' | '+') => 1,
                _ => break,
            };
            match self.run(at + len + joint, |c| c.is_ascii_uppercase()) {
                0 => break,
                n => len += joint + n,
            }
            n_parts += 1;
        }
        (n_parts > 1).then_some(Match::token(len))
    }

    /// `1/2`, and `3 1/4` as one token with a no-break space inside.
    fn fraction(&self, at: usize) -> Option<Match> {
        let digits = |at| Some(self.run(at, is_digit)).filter(|n| (1..=4).contains(n));
        let simple = |at| {
            let above = digits(at)?;
            let below =
                (self.get(at + above)? == '/').then(|| self.run(at + above + 1, is_digit))?;
            (below > 0).then_some(above + 1 + below.min(4))
        };
        let whole = digits(at)?;
        let joint = self.is(at + whole, |c| matches!(c, '-' | ' ' | '\u{a0}'));
        let mixed = simple(at + whole + 1).filter(|_| joint).map(|n| whole + 1 + n);
        mixed.or_else(|| simple(at)).map(Match::token)
    }

    /// `41`, `-5`, `1,000.50`, `12:43`, `.99`.
    fn number(&self, at: usize) -> Option<Match> {
        let sign = usize::from(self.is(at, |c| c == '-' || c == '+'));
        let mut len = sign + self.run(at + sign, is_digit);
        while self.is(at + len, |c| matches!(c, '.' | ',' | ':')) {
            match self.run(at + len + 1, is_digit) {
                0 => break,
                n => len += 1 + n,
            }
        }
        (len > sign).then_some(Match::token(len))
    }

    /// `555 123 4567`, `(555) 123-4567`.
    fn phone_number(&self, at: usize) -> Option<Match> {
        let digits = |at, n| self.run(at, is_digit) == n;
        let gap = |at| self.is(at, |c| matches!(c, ' ' | '-' | '\u{a0}'));
        let area =
            if self.get(at) == Some('(') && digits(at + 1, 3) && self.get(at + 4) == Some(')') {
                5 + usize::from(gap(at + 5))
            } else if digits(at, 3) && gap(at + 3) {
                4
            } else {
                return None;
            };
        let local = digits(at + area, 3) && gap(at + area + 3) && digits(at + area + 4, 4);
        local.then_some(Match::token(area + 8))
    }

    /// `US$`, and the languages `C++` and `C#`.
    fn currency(&self, at: usize) -> Option<Match> {
        if self.reads(at, "c++") {
            return Some(Match::token(3));
        }
        if self.reads(at, "c#") {
            return Some(Match::token(2));
        }
        let capitals = self.run(at, |c| c.is_ascii_uppercase());
        (self.get(at + capitals) == Some('$')).then_some(Match::token(capitals + 1))
    }

    /// `me@home.org`, `@name`, `#topic`, `http://a.org/b`, `www.a-b.org`.
    fn address(&self, at: usize) -> Option<Match> {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let host = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        match self.get(at)? {
            '#' => {
                let letters = self.run(at + 1, is_letter);
                return (letters > 0).then_some(Match::token(1 + letters));
            }
            '@' => {
                let fits = self.is(at + 1, |c| name(c) && !c.is_ascii_digit());
                return fits.then(|| Match::token(1 + self.run(at + 1, name)));
            }
            c if !c.is_ascii_alphanumeric() => return None,
            _ => {}
        }
        let user = self.run(at, |c| name(c) || host(c));
        if self.get(at + user) == Some('@') {
            let domain =
                self.without_end(at + user + 1, self.run(at + user + 1, host), &['.', '-']);
            return (domain > 0).then_some(Match::token(user + 1 + domain));
        }
        if let Some(web_page) = self.web_page(at) {
            return Some(web_page);
        }
        let link = |c: char| !c.is_whitespace() && !"\"<>()|".contains(c);
        let scheme = ["http://", "https://"].iter().find(|scheme| self.reads(at, scheme));
        let start = match scheme {
            Some(scheme) => scheme.len(),
            None if self.reads(at, "www.") => 4,
            None => return None,
        };
        let rest = self.run(at + start, link);
        let rest = self.without_end(at + start, rest, &['.', ',', '!', '?', ';', ':', '\'']);
        let dotted = self.text[at + start..at + start + rest].contains(&'.');
        (rest > 0 && (dotted || start == 4)).then_some(Match::token(start + rest))
    }

    /// `gallery.org/room2`.
    fn web_page(&self, at: usize) -> Option<Match> {
        let domain = self.word(at)?.len;
        let known = [".com", ".net", ".org", ".edu"]
            .iter()
            .any(|end| domain > end.len() && self.reads(at + domain - end.len(), end));
        let path = self.run(at + domain + 1, |c| c.is_ascii_alphanumeric() || "/-_".contains(c));
        let fits = known && self.get(at + domain) == Some('/') && path > 1;
        fits.then_some(Match::token(domain + 1 + path))
    }

    /// `len` without the trailing characters that are in `ends`.
    fn without_end(&self, at: usize, len: usize, ends: &[char]) -> usize {
        let kept = self.text[at..at + len].iter().rposition(|c| !ends.contains(c));
        kept.map_or(0, |last| last + 1)
    }

    /// `<b>`, `</b>`.
    fn tag(&self, at: usize) -> Option<Match> {
        if self.get(at) != Some('<') {
            return None;
        }
        let slash = usize::from(self.get(at + 1) == Some('/'));
        let name = self.run(at + 1 + slash, |c| c.is_ascii_alphanumeric() || "-_:.".contains(c));
        if name == 0 || !self.is(at + 1 + slash, |c| c.is_ascii_alphabetic()) {
            return None;
        }
        let len = 1 + slash + name + usize::from(self.get(at + 1 + slash + name) == Some('/'));
        (self.get(at + len) == Some('>')).then_some(Match::token(len + 1))
    }

    /// `:)`, `;-D`.
    fn smiley(&self, at: usize) -> Option<Match> {
        let hat = usize::from(self.is(at, |c| c == '<' || c == '>'));
        if !self.is(at + hat, |c| ":;=".contains(c)) {
            return None;
        }
        let nose = usize::from(self.is(at + hat + 1, |c| "-o*'".contains(c)));
        let mouth = |at| self.is(at, |c| "()DPdpO\\{@|[]".contains(c));
        let len = [hat + 1 + nose, hat + 1].into_iter().find(|&n| mouth(at + n))? + 1;
        let closed = !self.is(at + len, is_letter_or_digit);
        closed.then_some(Match::token(len))
    }

    /// Symbols that form one token when repeated.
    fn repeated_symbol(&self, at: usize) -> Option<Match> {
        let first = self.get(at)?;
        let len = match first {
            '!' | '?' => self.run(at, |c| c == '!' || c == '?'),
            '*' | '_' | '#' | '@' | '-' => self.run(at, |c| c == first),
            '.' => Some(self.run(at, |c| c == '.')).filter(|n| *n >= 3).unwrap_or(1),
            '<' | '>' | '\'' | '`' => self.run(at, |c| c == first).min(2),
            _ => 1,
        };
        (len > 1).then_some(Match::token(len))
    }

    /// `&amp;` and similar entities, with the characters that they stand for.
    fn entity(&self, at: usize) -> Option<(usize, &'static str)> {
        const ENTITIES: [(&str, &str); 5] =
            [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "''"), ("&apos;", "'")];
        let (name, word) = ENTITIES.iter().find(|(name, _)| self.reads(at, name))?;
        Some((name.len(), word))
    }
}

const SOFT_HYPHEN: char = '\u{ad}';

const CONTRACTIONS: [&str; 6] = ["'s", "'d", "'m", "'ll", "'re", "'ve"];

/// Adds a token to `line` unless it is punctuation.
fn push_word(line: &mut String, word: &str) {
    let all = |sign: char| word.chars().all(|c| c == sign);
    if all('-') || all('.') || PUNCTUATION.contains(&word) {
        return;
    }
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(word);
}

/// The treebank's spelling of a token: lower case, brackets by name, no-break spaces inside.
fn spelling(token: &[char]) -> String {
    let contraction = token.len() <= 3 && token.contains(&'\u{2019}') && {
        let straight: String = token
            .iter()
            .flat_map(|c| c.to_lowercase())
            .map(|c| if c == '\u{2019}' { '\'' } else { c })
            .collect();
        straight == "n't" || CONTRACTIONS.contains(&straight.as_str())
    };
    let mut word = String::new();
    for &c in token {
        match c {
            '\u{2019}' if contraction => word.push('\''),
            ' ' => word.push('\u{a0}'),
            '(' | ')' => word.push_str(&symbol(c)),
            _ => word.extend(c.to_lowercase()),
        }
    }
    word.replace("&amp;", "&")
}

/// The treebank's ASCII form of a single symbol.
fn symbol(c: char) -> String {
    let word = match c {
        '(' => "-lrb-",
        ')' => "-rrb-",
        '[' => "-lsb-",
        ']' => "-rsb-",
        '{' => "-lcb-",
        '}' => "-rcb-",
        '\u{2010}'..='\u{2015}' => "--",
        '\u{2026}' => "...",
        '"' | '\u{201c}' | '\u{201d}' | '\u{ab}' | '\u{bb}' => "''",
        '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2039}' | '\u{203a}' => "'",
        '\u{a2}' => "cents",
        '\u{a3}' => "#",
        '\u{20ac}' => "$",
        '\u{bd}' => "1/2",
        '\u{bc}' => "1/4",
        '\u{be}' => "3/4",
        '\u{2153}' => "1/3",
        '\u{2154}' => "2/3",
        _ => return c.to_lowercase().collect(),
    };
    word.to_owned()
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '\u{300}'..='\u{36f}')
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn is_letter_or_digit(c: char) -> bool {
    is_letter(c) || is_digit(c)
}

/// Characters that the reference drops: joiners, emoji and all others beyond the basic plane.
fn is_invisible(c: char) -> bool {
    c > '\u{ffff}' || matches!(c, '\u{200b}'..='\u{200f}' | '\u{fe0f}' | '\u{feff}')
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}')
}

fn is_hyphen(c: char) -> bool {
    matches!(c, '-' | '_' | '\u{2010}' | '\u{2011}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(caption: &str, words: &str) {
        assert_eq!(tokenize(caption), words, "{caption}");
    }

    #[test]
    fn words_are_lower_cased_and_punctuation_is_dropped() {
        check("A red kite, high above; nobody holds it.", "a red kite high above nobody holds it");
        check("\"Wait...\" - he said -- 'no'!", "wait he said no");
        check("", "");
        check(" . ,\t", "");
    }

    #[test]
    fn runs_of_exclamation_marks_and_brackets_count_as_words() {
        check("Two owls!! (grey)", "two owls !! -lrb- grey -rrb-");
    }

    #[test]
    fn contractions_are_cut_before_the_apostrophe() {
        check("It's the dogs' bowl; they can't, we'll.", "it 's the dogs bowl they ca n't we 'll");
        check("it\u{2019}s, don\u{2019}t", "it 's do n't");
        check("I'm gonna; CANNOT; 'tis", "i 'm gon na can not 't is");
    }

    #[test]
    fn an_apostrophe_inside_a_name_does_not_cut() {
        check("O'Neil's ma'am at five o'clock, y'all", "o'neil 's ma'am at five o'clock y' all");
        check("salt'n pepper 'n' fries of '08", "salt 'n pepper 'n' fries of '08");
    }

    #[test]
    fn hyphens_and_slashes_join_words() {
        check("A close-up and/or side-view/top-view", "a close-up and/or side-view/top-view");
        check("a lamp--lit room", "a lamp lit room");
        check("a half- built wall", "a half built wall");
    }

    #[test]
    fn a_comma_without_a_space_cuts_and_a_full_stop_does_not() {
        check("spoon,fork.Knife", "spoon fork.knife");
    }

    #[test]
    fn abbreviations_and_acronyms_keep_their_full_stops() {
        check(
            "Mr. Oak of Elm St. at 7 a.m. in the U.S.",
            "mr. oak of elm st. at 7 a.m. in the u.s.",
        );
        check("no. 5 is no. good", "no. 5 is no good");
        check("In Mass. a mass. of", "in mass. a mass of");
    }

    #[test]
    fn a_letter_before_a_new_sentence_loses_its_full_stop() {
        check("Platform B. The train", "platform b the train");
        check("Platform B. Trains", "platform b. trains");
        assert_eq!(tokenize_lines(&["Platform B.", "A cat"]), ["platform b", "a cat"]);
    }

    #[test]
    fn numbers_prices_and_fractions_stay_whole() {
        check("1,250 for $3.50 at 12:43, 8th", "1,250 for $ 3.50 at 12:43 8th");
        check("1/2 of 3 1/4", "1/2 of 3\u{a0}1/4");
        check("50% #7 R&D & me", "50 % # 7 r&d & me");
        check("5:30pm 6pm", "5:30 pm 6pm");
    }

    #[test]
    fn captions_stay_apart_and_in_order() {
        assert_eq!(tokenize_lines(&["One.", "", "Two\nthree"]), ["one", "", "two three"]);
        assert!(tokenize_lines::<&str>(&[]).is_empty());
    }
}
