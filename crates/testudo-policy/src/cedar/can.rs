//! placeholder
pub struct Answer;
pub struct Principal;
pub struct Question;
pub struct QuestionError;
